"""Where the time of a training step goes: its program runs part by part, in order, so that each part meets the caches
as it does in a whole step."""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple, TypeAlias

from nnjit.bench.timing import median_seconds, run_times
from nnjit.bench.workload import Workload
from nnjit.site import Site
from nnjit.stages import Stage

Pass: TypeAlias = Literal["forward", "gradient_to_input", "gradient_to_weights"]
PASSES: tuple[Pass, ...] = ("forward", "gradient_to_input", "gradient_to_weights")
Rest: TypeAlias = Literal["batch", "loss", "update", "calls"]
REST: tuple[Rest, ...] = ("batch", "loss", "update", "calls")


@dataclass(frozen=True)
class PassTime:
    """One pass of a layer over a batch."""

    seconds: float
    gflops: float | None
    """1e9 operations per second; None where multiply-adds say nothing about the cost, or the time is too short to
    tell."""
    share: float
    """Of the step, 0 to 1."""


@dataclass(frozen=True)
class LayerTimes:
    """A layer with the activation and the pooling that it applies itself; the way back through that pooling is another
    one's."""

    position: int
    """In the config."""
    kind: str
    """Such as conv2d+relu."""
    shape: tuple[int, ...]
    """Of the output of one sample."""
    passes: dict[Pass, PassTime]
    """Those that the layer has."""


@dataclass(frozen=True)
class Profile:
    """The parts of a step."""

    step_seconds: float
    """Of whole steps, measured in turns with their parts."""
    gflops: float
    """The multiply-adds of all passes against the time of a step."""
    layers: list[LayerTimes]
    rest: dict[Rest, float]
    """Seconds of what no layer does: bringing the batch, loss and metric, the optimizer's update, and calls, which is
    what all others lack of the step. Most of it is calling compiled code, which does not count for a part; below 0
    where the parts take longer one by one than together."""

    @property
    def highest_gflops(self) -> float:
        """Of the whole and of each pass."""
        rates = [taken.gflops or 0.0 for layer in self.layers for taken in layer.passes.values()]
        return max([self.gflops, *rates])


class _Part(NamedTuple):
    """Whose calls a range of the program is: a pass of the layer on site `number`, or one of the rest."""

    number: int | None
    what: Pass | Literal["pooling"] | Rest
    """Pooling: the way back through the one that the layer applied, on its way to both gradients."""


def profile(workload: Workload, seconds: float) -> Profile:
    """Time steps for `seconds`: whole ones and ones part by part, in turns."""
    workload.reset()
    step_seconds, times = _part_seconds(workload, seconds)
    stages, sites = workload.network.stages, workload.step.bound.sites
    layers, work = [], 0
    for number, (stage, site) in enumerate(zip(stages, sites, strict=True)):
        passes: dict[Pass, PassTime] = {}
        for name in PASSES:
            if (part := _Part(number, name)) in times:
                multiply_adds = _multiply_adds(stage, site, name)
                work += multiply_adds
                rate = 2e-9 * multiply_adds / times[part] if multiply_adds and times[part] else None
                passes[name] = PassTime(times[part], rate, times[part] / step_seconds)
        layers.append(LayerTimes(stage.position, "+".join(stage.kinds), stage.out_shape, passes))
        if stage.pooling:
            taken = times.get(_Part(number, "pooling"), 0.0)
            back: dict[Pass, PassTime] = {"gradient_to_input": PassTime(taken, None, taken / step_seconds)}
            layers.append(LayerTimes(stage.last, stage.pooling, stage.out_shape, back))
    rest = {name: times.get(_Part(None, name), 0.0) for name in REST}
    rest["calls"] = step_seconds - sum(times.values())
    return Profile(step_seconds, 2e-9 * work / step_seconds, layers, rest)


def _multiply_adds(stage: Stage, site: Site, name: Pass) -> int:
    """Of one pass over a batch; each has as many as the forward pass, which leaves out what falls into no window of its
    pooling."""
    if name == "gradient_to_input" and site.dx is None:
        return 0  # the derivative of an activation or a border of zeros alone
    work = stage.layer.multiply_adds(stage.shape) * site.batch_size
    if not stage.pooling:
        return work
    pooled, computed = (math.prod(shape) for shape in (stage.out_shape, stage.layer.output_shape(stage.shape)))
    return work * 4 * pooled // computed


def _part_seconds(workload: Workload, seconds: float) -> tuple[float, Mapping[_Part, float]]:
    """The median time of a step, and of each of its parts; where a part's calls stand apart, the sum of theirs."""
    program = workload.step.program
    ranges: list[tuple[_Part, int, int]] = []
    for part, calls in groupby(_owners(workload)):
        first = ranges[-1][2] if ranges else 0
        ranges.append((part, first, first + len(list(calls))))
    overhead = median_seconds(lambda _: program.run(0, 0), seconds / 10)
    whole: list[float] = []
    times: list[list[float]] = [[] for _ in ranges]

    def run(number: int) -> None:
        start = time.perf_counter()
        workload.run(number)
        whole.append(time.perf_counter() - start)
        workload.select(number + 1)
        for (_, first, last), taken in zip(ranges, times, strict=True):
            start = time.perf_counter()
            program.run(first, last)
            taken.append(time.perf_counter() - start)

    counted = len(run_times(run, seconds))
    found: dict[_Part, float] = defaultdict(float)
    for (part, _, _), taken in zip(ranges, times, strict=True):
        found[part] += max(statistics.median(taken[-counted:]) - overhead, 0.0)
    return statistics.median(whole[-counted:]), found


def _owners(workload: Workload) -> list[_Part]:
    """The part that each call of the program belongs to."""
    step = workload.step
    owner: dict[int, _Part] = {}
    for number, site in enumerate(step.bound.sites):
        lists: tuple[tuple[Pass | Literal["pooling"], list[Any]], ...] = (
            ("forward", site.forward),
            ("gradient_to_weights", site.backward_parameters),
            ("gradient_to_input", site.backward_input),
            ("gradient_to_input" if site.winners is None else "pooling", site.backward_output),
        )
        owner.update((id(call), _Part(number, name)) for name, calls in lists for call in calls)
    parts: list[_Part] = []
    rest: Rest = "batch"
    for number, call in enumerate(step.program.calls):
        if id(call) in owner:
            rest = "loss"  # what follows the forward pass
        if number >= len(step.calls):
            rest = "update"
        parts.append(owner.get(id(call), _Part(None, rest)))
    return parts
