"""Single convolution layers: every pass over many shapes, strides and paddings, as a share of what the machine can do.

A pass can be no faster than its multiply-adds at the peak rate, nor than its data come and go; how far it does both at
once is told by the share of the peak that it would have if it did one after the other. Where it has less than that, a
kernel has something to gain.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import click
import numpy as np
from numba.core.registry import cpu_target
from quiet import wait_until_quiet
from results import PagePath, heading, machine, markdown_table, write_page

from nnjit.bench.limits import data_program, peak_gflops
from nnjit.bench.profile import PASSES, Pass
from nnjit.bench.timing import run_times
from nnjit.cli.options import Count, Seconds
from nnjit.kernels.program import Call, Program
from nnjit.kernels.threads import get_threads, most_threads, set_threads
from nnjit.kernels.winograd import winograd
from nnjit.kernels.winograd_overlap import winograd_overlap
from nnjit.kernels.winograd_weights import winograd_weights
from nnjit.layers.conv2d import Conv2d
from nnjit.network import BoundNetwork, Network
from nnjit.site import Site
from nnjit.tuning.machine import vector_registers

DTYPE = np.dtype(np.float32)
ENOUGH = 0.8
"""The share of the peak that passes should reach."""
TURNS = 15
"""Of each pass and of the peak."""
WINOGRAD, DIRECT = "Winograd", "direct"
COMPILER_VARIABLES = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")
"""The environment's word on which CPU kernels are compiled for."""


CASE_HEADINGS = ("kernel / stride", "maps", "side", "padding", "batch")


class Case(NamedTuple):
    """A convolution with square kernels over a batch of square images."""

    kernel: int
    stride: int
    channels: int
    filters: int
    side: int
    padding: int | Literal["same"]
    batch: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the input of one sample."""
        return (self.channels, self.side, self.side)

    def layer(self, algorithm: Literal["auto", "direct"] = "auto") -> Conv2d:
        """The layer that is measured."""
        padding = self.padding if isinstance(self.padding, str) else (self.padding, self.padding)
        kernel, stride = (self.kernel, self.kernel), (self.stride, self.stride)
        return Conv2d(filters=self.filters, kernel=kernel, stride=stride, padding=padding, algorithm=algorithm)

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table says of it, under CASE_HEADINGS."""
        sizes = f"{self.kernel}x{self.kernel} / {self.stride}", f"{self.channels} to {self.filters}"
        return (*sizes, str(self.side), str(self.padding), str(self.batch))

    @property
    def operations(self) -> int:
        """Of one pass over the batch: a multiply-add is two, and every pass has as many as the forward pass."""
        return 2 * self.layer().multiply_adds(self.shape) * self.batch

    @property
    def data(self) -> dict[Pass, tuple[list[int], list[int]]]:
        """The bytes of the images that each pass cannot but read, and of those that it cannot but write."""
        shapes = self.shape, self.layer().output_shape(self.shape)
        inputs, outputs = (DTYPE.itemsize * self.batch * math.prod(shape) for shape in shapes)
        moved = ([inputs], [outputs]), ([outputs], [inputs]), ([inputs, outputs], [])
        return dict(zip(PASSES, moved, strict=True))


CASES = tuple(
    Case(*sizes)
    for sizes in (
        # kernel, stride, channels, filters, side, padding, batch
        (3, 1, 3, 32, 32, 1, 64),
        (3, 1, 16, 16, 32, 1, 64),
        (3, 1, 32, 32, 16, 1, 64),
        (3, 1, 64, 64, 16, 1, 64),
        (3, 1, 128, 128, 8, 1, 64),
        (3, 2, 16, 32, 32, 1, 64),
        (3, 2, 32, 64, 16, 1, 64),
        (3, 2, 64, 128, 8, 1, 64),
        (3, 3, 16, 32, 30, 1, 64),
        (5, 1, 1, 20, 28, 0, 64),
        (5, 1, 6, 16, 14, 0, 64),
        (5, 1, 20, 40, 12, 0, 64),
        (5, 2, 16, 32, 28, 2, 64),
        (7, 2, 3, 32, 64, 3, 32),
        (9, 1, 1, 64, 33, 0, 16),
        (1, 1, 64, 32, 25, 0, 16),
        (1, 1, 32, 64, 16, 0, 64),
        (1, 1, 64, 128, 16, 0, 64),
        (4, 4, 3, 32, 32, 0, 64),
        (2, 2, 16, 32, 16, 0, 64),
        (4, 1, 32, 32, 16, "same", 64),
    )
)


@dataclass(frozen=True)
class PassRate:
    """One pass of a layer."""

    gflops: float
    share: float
    """Of the peak, 1 for all of it; more where Winograd's algorithm leaves multiply-adds out."""
    apart: float
    """What that share would be if arithmetic at the peak came after the data."""
    algorithm: str
    """WINOGRAD or DIRECT."""


@dataclass(frozen=True)
class Measured:
    """A layer's passes, and the limit that they are held against."""

    case: Case
    setting: Literal["auto", "direct"]
    """The layer's `algorithm`."""
    peak: float
    """1e9 operations per second, measured between the passes."""
    passes: Mapping[Pass, PassRate]


def bound_layer(case: Case, setting: Literal["auto", "direct"]) -> tuple[Network, BoundNetwork]:
    """The layer by itself, and bound to random inputs and gradients."""
    network = Network([case.layer(setting)], case.shape, DTYPE, 0)
    bound = network.bind(case.batch, input_gradient=True)
    assert bound.dout is not None
    rng = np.random.default_rng(0)
    bound.x.write(rng.standard_normal((case.batch, *case.shape), DTYPE))
    bound.dout.write(rng.standard_normal((case.batch, *network.output_shape), DTYPE))
    return network, bound


def calls_of(site: Site) -> dict[Pass, list[Call]]:
    """The kernel calls of each pass, in the order of PASSES."""
    return dict(zip(PASSES, (site.forward, site.backward_input, site.backward_parameters), strict=True))


def algorithm_of(calls: Iterable[Call]) -> str:
    """How a pass is computed."""
    return WINOGRAD if any(call.kernel in (winograd, winograd_overlap, winograd_weights) for call in calls) else DIRECT


def least_seconds(program: Program, seconds: float) -> float:
    """The least time that a run took, as that of the peak is."""
    return min(run_times(lambda _: program.run(), seconds))


def measure(case: Case, setting: Literal["auto", "direct"], seconds: float) -> Measured:
    """Measure each pass of a layer, and touching its data, for `seconds` each, in turns, the peak before and after each
    turn: the clock of a machine wanders, so that a turn is held against the peak of its own time."""
    _, bound = bound_layer(case, setting)
    calls = calls_of(bound.sites[0])
    programs = {name: (Program(calls[name]), data_program(*case.data[name])) for name in PASSES}
    turn = seconds / TURNS
    rates: dict[Pass, list[float]] = {name: [] for name in PASSES}
    shares: dict[Pass, list[float]] = {name: [] for name in PASSES}
    apart: dict[Pass, list[float]] = {name: [] for name in PASSES}
    peaks = [peak_gflops(DTYPE, turn)]
    for _ in range(TURNS):
        for name, (program, data) in programs.items():
            taken, touched = least_seconds(program, turn), least_seconds(data, turn)
            peaks.append(peak_gflops(DTYPE, turn))
            arithmetic = 1e-9 * case.operations / ((peaks[-2] + peaks[-1]) / 2)
            rates[name].append(1e-9 * case.operations / taken)
            shares[name].append(arithmetic / taken)
            apart[name].append(arithmetic / (arithmetic + touched))
    passes = {
        name: PassRate(*(median(of[name]) for of in (rates, shares, apart)), algorithm_of(calls[name]))
        for name in PASSES
    }
    return Measured(case, setting, median(peaks), passes)


def measure_case(case: Case, seconds: float) -> list[Measured]:
    """The layer as it is by default; where that uses Winograd's algorithm in a pass, by direct sums too."""
    found = [measure(case, "auto", seconds)]
    if any(rate.algorithm == WINOGRAD for rate in found[0].passes.values()):
        found.append(measure(case, "direct", seconds))
    return found


def table(measured: Iterable[Measured]) -> str:
    """A line for each layer and setting."""
    columns = (word for name in ("forward", "to input", "to weights") for word in (name, "%", "apart", "by"))
    rows = [(*CASE_HEADINGS, "setting", "peak", *columns)]
    for each in measured:
        cells = [*each.case.cells, each.setting, f"{each.peak:.0f}"]
        for name in PASSES:
            rate = each.passes[name]
            apart = f"{100 * rate.apart:.0f}" if rate.algorithm == DIRECT else ""
            cells += [f"{rate.gflops:.0f}", f"{100 * rate.share:.0f}", apart, rate.algorithm]
        rows.append(tuple(cells))
    return markdown_table(rows)


def compiled_for() -> str:
    """The CPU that kernels are compiled for, which the environment can choose."""
    _, name, _ = cpu_target.target_context.codegen().magic_tuple()[:3]
    return f"{name}, {vector_registers()} vectors of 64 bytes in its registers"


def given_compiler() -> list[str]:
    """What the environment says about it, as a command gives it."""
    return [f"{name}={os.environ[name]}" for name in COMPILER_VARIABLES if name in os.environ]


def command(threads: int, seconds: float) -> str:
    """What repeats a run."""
    options = f"--threads {threads} --seconds {seconds:g} --write FILE"
    return " ".join([*given_compiler(), "python benchmarks/convolutions.py", options])


def counted(measured: Iterable[Measured]) -> str:
    """How many passes reach ENOUGH of the peak with the better setting, and how many of the others are faster than
    arithmetic and data apart."""
    best: dict[tuple[Case, Pass], PassRate] = {}
    for each in measured:
        for name, rate in each.passes.items():
            best[each.case, name] = max(best.get((each.case, name), rate), rate, key=lambda rate: rate.share)
    below = [rate for rate in best.values() if rate.share < ENOUGH]
    faster = sum(rate.share >= rate.apart for rate in below)
    reached = f"{len(best) - len(below)} of {len(best)} passes reach {100 * ENOUGH:.0f} % of the peak."
    others = f" Of the {len(below)} others, {faster} are faster than their arithmetic and their data apart."
    return f"With the better setting {reached}{others if below else ''}"


def page(facts: Mapping[str, str], threads: int, seconds: float, measured: Sequence[Measured]) -> str:
    """The whole page. `facts` come from `machine`, taken before the first measurement."""
    lines = {
        **facts,
        "kernels compiled for": compiled_for(),
        "threads": str(threads),
        "to repeat": f"`{command(threads, seconds)}`",
    }
    return "".join(
        [
            heading("Convolutions", "convolutions.py", lines),
            "\nEvery pass of single layers in float32: forward, the gradient to the input, the gradient to the weights "
            "(and the biases). Rates are in GFLOP/s: the multiply-adds of the formula, those with padding's zeros "
            f"included, two operations each. They are medians over {TURNS} turns of the fastest run of each. A pass "
            "finds its data as its own previous run left the caches.\n\n"
            "% is the share of the peak of a register tile, measured before and after each turn, since the machine's "
            "clock wanders. Under apart stands the share that a pass would have if it first touched its data - reads "
            "two of input, output and gradient once, or reads one and writes the other - and then did nothing but "
            "multiply-adds at the peak: arrays of the same sizes, measured in the same turns, each found where the "
            "run before left it. Both are medians over the turns. A pass with a larger share than that does both at "
            "once. That has an end: as the execution-cache-memory model has it (Stengel and others, 2015), Intel's "
            "processors do not load from the first cache while a line comes there or leaves it, and a tile's products "
            "load in most cycles.\n\n"
            "Winograd's algorithm leaves most of the formula's multiply-adds out, so it may exceed 100 %; where the "
            "setting auto uses it in a pass, a second line shows the layer by direct sums alone. Those skip some "
            "products with padding's zeros, which gains them a few percent on small images.\n\n",
            f"{counted(measured)}\n\n",
            table(measured),
        ]
    )


@click.command()
@click.option("--threads", type=Count(1, most_threads()), help="All cores unless given.")
@click.option("--seconds", type=Seconds(), default=0.1, show_default=True, help="Of a pass.")
@click.option("--write", type=PagePath(), metavar="FILE", help="Write a page instead of printing.")
def main(threads: int | None, seconds: float, write: Path | None) -> None:
    """Measure every pass of single convolutions as a share of what the machine can do; print the table."""
    threads = threads or get_threads()
    set_threads(threads)
    wait_until_quiet()
    facts = machine()
    measured: list[Measured] = []
    for number, case in enumerate(CASES, 1):
        measured += measure_case(case, seconds)
        click.echo(f"{number} of {len(CASES)}: done", err=True)
    if write is None:
        click.echo(table(measured), nl=False)
    else:
        write_page(write, page(facts, threads, seconds, measured))


if __name__ == "__main__":
    main()
