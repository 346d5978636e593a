"""What every test of the suite shares."""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np
import pytest
from hypothesis import settings

from nnjit.kernels.compiler import JIT

pytest.register_assert_rewrite("battery")

# The same examples in every run; the first of a test may compile, so none has a deadline.
settings.register_profile("nnjit", deadline=None, derandomize=True, database=None, max_examples=20)
settings.load_profile("nnjit")


@pytest.fixture(autouse=not JIT)
def silent_arithmetic() -> Iterator[None]:
    """NumPy's twins of the operations as quiet as compiled ones, which never warn of an overflow or a NaN."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """Numba's number of threads as it was, after a test that changes it."""
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)
