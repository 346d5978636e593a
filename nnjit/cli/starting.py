"""What makes a start short."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Let Python look for cycles to free only after 200,000 new objects while the block runs.

    Nearly all that importing and linking make is there to stay. Looking through it after every 700 objects took a tenth
    of a start from a warm kernel cache; compiling all kernels for LeNet-5 takes 8 % more memory this way.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
