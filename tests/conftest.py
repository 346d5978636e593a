"""What every test of the suite shares."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numba.core import compiler

from nnjit import stages
from nnjit.kernels.compiler import JIT
from nnjit.kernels.contraction_strips import Strip
from nnjit.kernels.threads import get_threads, set_threads
from nnjit.kernels.tiles import TileShape
from nnjit.passes import dense, direct, rows_in_lanes

pytest.register_assert_rewrite("battery")

# What the compiler keeps grows from test to test; looking through it for garbage took a tenth of the time.
gc.set_threshold(10_000, 20, 50)

# The same examples in every run; the first of a test may compile, so none has a deadline.
settings.register_profile("nnjit", deadline=None, derandomize=True, database=None, max_examples=20)
settings.load_profile("nnjit")


@pytest.fixture(autouse=True, scope="module")
def untraced_compiler(request: pytest.FixtureRequest) -> Iterator[None]:
    """The compiler out of the sight of coverage, which would follow it line by line, but where the tests are of the
    operations whose code nnjit generates itself."""
    compile_function = compiler.compile_extra

    def compile_untraced(*arguments: Any, **named: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return compile_function(*arguments, **named)
        finally:
            sys.settrace(tracer)

    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ not in ("test_simd", "test_lane_math", "test_tiles", "test_packing"):
            patch.setattr(compiler, "compile_extra", compile_untraced)
        yield


@pytest.fixture(autouse=not JIT)
def silent_arithmetic() -> Iterator[None]:
    """NumPy's twins of the operations as quiet as compiled ones, which never warn of an overflow or a NaN."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(autouse=True)
def shared_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients of small networks in memory that they share, as those of large ones are."""
    monkeypatch.setattr(stages, "SHARED_BYTES", 0)


@pytest.fixture(scope="module")
def few_tiles() -> Iterator[None]:
    """Tiles of few shapes, so that not every size compiles kernels of its own; they overlap at most sizes, and sums of
    dense layers come in pieces of few taps."""

    def choose(rows: int, columns: int, *sizes: Any, run: int = 1, **hints: Any) -> TileShape:
        short = next(length for length in (3, 2, 1) if run % length == 0)
        known = {name: hints[name] for name in ("column_step", "run_step") if name in hints}
        return TileShape(min(rows, 2), 3 if columns >= 3 else 1, run=short, **known)

    def choose_remainder(
        rows: int, lanes: int, taps: int, run: int, column_step: int, used: Any, *, whole: bool = False
    ) -> TileShape:
        tile = TileShape(min(len(used), 2), 1, run=run if run in (2, 3) else 1)
        return replace(tile, row_step=column_step, column_step=1, tap_step=1, lanes=lanes)

    def choose_strip(tile: TileShape, rows: int, columns: int, *, shared: bool, by_lines: bool = False) -> Strip:
        # Samples, whose tasks go by lines, come in whole blocks.
        lines = 2 if columns > tile.columns else 1
        return Strip(min(2, -(-rows // tile.rows)), lines, 16 if by_lines else 6, by_lines)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "choose_tile", choose)
        patch.setattr(rows_in_lanes, "choose_remainder_tile", choose_remainder)
        patch.setattr(dense, "choose_strips_tile", choose)
        patch.setattr(dense, "choose_strip", choose_strip)
        yield


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """Numba's number of threads as it was, after a test that changes it."""
    before = get_threads()
    yield
    set_threads(before)
