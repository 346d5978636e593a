"""How times are taken: medians of many runs after a warm-up, and contenders in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

WARM_UP = 0.2
"""Share of the seconds that a turn runs before it counts: caches fill, threads wake, clocks settle."""
LEAST_RUNS = 3
"""Runs that count however long each takes."""


def run_times(run: Callable[[int], object], seconds: float) -> list[float]:
    """The seconds that each of run(0), run(1), ... took, over `seconds` after a warm-up."""
    number = 0
    end = time.perf_counter() + WARM_UP * seconds
    while number == 0 or time.perf_counter() < end:
        run(number)
        number += 1
    times: list[float] = []
    now = time.perf_counter()
    end = now + seconds
    while len(times) < LEAST_RUNS or now < end:
        run(number)
        number += 1
        before, now = now, time.perf_counter()
        times.append(now - before)
    return times


def median_seconds(run: Callable[[int], object], seconds: float) -> float:
    """The median time of a run."""
    return statistics.median(run_times(run, seconds))


def race(contenders: Mapping[str, Callable[[int], object]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """The median seconds of a run in each of `rounds` turns of `seconds`; the contenders take turns, so that what else
    the machine does meets them all."""
    turns: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            turns[name].append(median_seconds(run, seconds))
    return turns
