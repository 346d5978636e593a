"""Tells when kernels are compiled rather than loaded from the cache, which ones, and how long it took."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from numba.core import event

from nnjit.kernels.compiler import CACHE_FOLDER, CACHE_LASTS


class _Compilations(event.Listener):
    """Counts the kernels whose compilation begins while this is installed, and the seconds in which one is compiled.

    Any thread may compile. Numba lets one compile at a time, with what its kernel calls inside, but the thread that
    installed this may stop it in the middle.
    """

    def __init__(self, quiet: bool) -> None:
        self.kernels: Counter[str] = Counter()
        self.seconds = 0.0
        self.quiet = quiet
        self._lock = threading.Lock()
        self._depth = 0
        self._began = 0.0
        self._stopped = False

    def on_start(self, event: Any) -> None:
        with self._lock:
            if self._stopped:
                return
            if not self.kernels and not self.quiet:
                lasts = f"kept in {CACHE_FOLDER}" if CACHE_LASTS else "for this run alone: the cache cannot be written"
                click.echo(f"compiling kernels, {lasts}", err=True)
            if not self._depth:
                self._began = time.perf_counter()
                self.kernels[event.data["dispatcher"].py_func.__name__.lstrip("_")] += 1
            self._depth += 1

    def on_end(self, event: Any) -> None:
        with self._lock:
            # What began before this was installed ends without having been counted.
            if self._stopped or not self._depth:
                return
            self._depth -= 1
            if not self._depth:
                self.seconds += time.perf_counter() - self._began

    def stop(self) -> None:
        """Count no more; what is still being compiled counts until now."""
        with self._lock:
            self._stopped = True
            if self._depth:
                self.seconds += time.perf_counter() - self._began


@contextmanager
def compiling(quiet: bool = False) -> Iterator[Counter[str]]:
    """Say on standard error what is compiled while the block runs, if anything is; count it by kernel."""
    compilations = _Compilations(quiet)
    with event.install_listener("numba:compile", compilations):
        try:
            yield compilations.kernels
        finally:
            compilations.stop()
    if quiet:
        return
    if compilations.kernels:
        names = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in sorted(compilations.kernels.items()))
        click.echo(f"compiled in {compilations.seconds:.1f} s: {names}", err=True)
