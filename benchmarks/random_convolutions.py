"""Random convolution layers beside PyTorch: whether it is the sizes of `convolutions.py` alone that are fast.

Every pass by itself; PyTorch's operators are called as its autograd calls them, in the better of two orders of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any

import click
import numpy as np
import torch
from convolutions import (
    CASE_HEADINGS,
    DTYPE,
    ENOUGH,
    Case,
    bound_layer,
    calls_of,
    compiled_for,
    given_compiler,
    least_seconds,
)
from numpy.typing import NDArray
from quiet import wait_until_quiet
from results import PagePath, heading, machine, markdown_table, write_page

from nnjit.bench.limits import data_program, peak_gflops
from nnjit.bench.profile import PASSES, Pass
from nnjit.bench.timing import run_times
from nnjit.cli.options import Count, Seconds
from nnjit.kernels.program import Program
from nnjit.kernels.threads import get_threads, most_threads, set_threads

KERNELS, STRIDES = (1, 2, 3, 3, 3, 4, 5, 5, 7), (1, 1, 1, 2, 2, 3)
"""What is drawn from: common ones more often."""
MAPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
SIDES = (7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56)
BATCHES = (16, 32, 64)
OPERATIONS = (8e6, 400e6)
"""Those of a pass: a few million multiply-adds at least."""
TURNS = 5
TOLERANCE = 1e-4
"""How far results may differ, relative to the largest entry."""
WORST = 12
"""Passes that are listed at least."""


def layers(number: int, seed: int) -> Iterator[Case]:
    """So many random layers with work enough."""
    drawn = Random(seed)
    while number:
        kernel, stride, channels, filters = (drawn.choice(values) for values in (KERNELS, STRIDES, MAPS, MAPS))
        padding = drawn.choice((0, kernel // 2))
        case = Case(kernel, stride, channels, filters, drawn.choice(SIDES), padding, drawn.choice(BATCHES))
        if case.side + 2 * padding >= kernel and OPERATIONS[0] <= case.operations <= OPERATIONS[1]:
            number -= 1
            yield case


@dataclass(frozen=True)
class Compared:
    """A pass of a layer."""

    case: Case
    of: Pass
    ratio: float
    """PyTorch's time to nnjit's."""
    share: float
    """What nnjit reaches of the peak."""
    apart: float
    """What that would be if arithmetic at the peak came after the data, as in `convolutions.py`."""

    @property
    def reaches(self) -> bool:
        """Whether the share is what it should be."""
        return self.share >= ENOUGH

    @property
    def moves(self) -> bool:
        """Whether it is not, for the data's sake: nnjit is no slower than data and arithmetic apart."""
        return self.share < ENOUGH and self.share >= self.apart


Passes = Mapping[Pass, Callable[[], Any]]


def torch_passes(case: Case, values: Sequence[NDArray[Any]], order: torch.memory_format) -> Passes:
    """The passes in PyTorch from the same input, gradient of the output, weights and biases, in an order of memory."""
    x, d, w = (torch.from_numpy(array).contiguous(memory_format=order) for array in values[:3])
    bias = torch.from_numpy(values[3])
    assert not isinstance(case.padding, str)
    stride, padding = [case.stride] * 2, [case.padding] * 2

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return torch.conv2d(x, w, bias, stride, padding)

    def backward(*wanted: bool) -> list[torch.Tensor]:
        sizes = (stride, padding, [1, 1], False, [0, 0], 1)
        return torch.ops.aten.convolution_backward(d, x, w, [case.filters], *sizes, list(wanted))

    passes = forward, lambda: backward(True, False, False)[0], lambda: backward(False, True, True)[1:]
    return dict(zip(PASSES, passes, strict=True))


def compare(case: Case, seconds: float) -> list[Compared]:
    """Each pass of a layer, for `seconds` by each contender, in turns. Raises ClickException if results differ."""
    network, bound = bound_layer(case, "auto")
    assert bound.dx is not None and bound.dout is not None and bound.gradients is not None
    programs = {name: Program(calls) for name, calls in calls_of(bound.sites[0]).items()}
    images = (bound.x.read(case.batch), bound.dout.read(case.batch))
    values = [*images, *network.layout.unpack(network.weights).values()]
    peers = [torch_passes(case, values, order) for order in (torch.contiguous_format, torch.channels_last)]
    found = []
    turn = seconds / TURNS
    for name, program in programs.items():
        theirs = [peer[name] for peer in peers]
        program.run()
        own = {PASSES[0]: bound.out.read, PASSES[1]: bound.dx.read}.get(name)
        ours = [own(case.batch)] if own else list(network.layout.unpack(bound.gradients).values())
        for run in theirs:
            result = run()
            _agree(case, name, ours, [result] if own else result)
        data = data_program(*case.data[name])
        ratios, shares, apart = [], [], []
        for _ in range(TURNS):
            arithmetic = 1e-9 * case.operations / peak_gflops(DTYPE, turn)
            taken, touched = least_seconds(program, turn), least_seconds(data, turn)
            ratios.append(min(_least_seconds(run, turn) for run in theirs) / taken)
            shares.append(arithmetic / taken)
            apart.append(arithmetic / (arithmetic + touched))
        found.append(Compared(case, name, *(median(of) for of in (ratios, shares, apart))))
    return found


def _least_seconds(run: Callable[[], Any], seconds: float) -> float:
    return min(run_times(lambda _: run(), seconds))


def _agree(case: Case, name: Pass, ours: Sequence[NDArray[Any]], theirs: Sequence[torch.Tensor]) -> None:
    for own, other in zip(ours, theirs, strict=True):
        expected = other.numpy()
        apart = float(np.abs(own - expected).max() / np.abs(expected).max())
        if not apart <= TOLERANCE:
            raise click.ClickException(f"{name} of {case} differs from PyTorch's by {apart:.0e} of the largest entry")


def summary(compared: Sequence[Compared]) -> str:
    """A line for each pass: how the ratios are spread, and how many reach the share of the peak that they should."""
    reached = f"at {100 * ENOUGH:.0f} % of the peak"
    rows = [("pass", "least", "10 %", "median", "90 %", "most", "below 1", reached, "apart", "neither")]
    for name in PASSES:
        of_pass = [each for each in compared if each.of == name]
        ratios = sorted(each.ratio for each in of_pass)
        tenths = quantiles(ratios, n=10, method="inclusive")
        spread = (ratios[0], tenths[0], median(ratios), tenths[-1], ratios[-1])
        slower = sum(ratio < 1 for ratio in ratios)
        counted = sum(each.reaches for each in of_pass), sum(each.moves for each in of_pass)
        numbers = *counted, len(of_pass) - sum(counted)
        rows.append((name, *(f"{ratio:.2f}" for ratio in spread), f"{slower} of {len(ratios)}", *map(str, numbers)))
    return markdown_table(rows)


def slowest(compared: Sequence[Compared]) -> str:
    """Those that are slower than PyTorch's, and the next, WORST together at least."""
    ordered = sorted(compared, key=lambda each: each.ratio)
    return _listed(ordered[: max(WORST, sum(each.ratio < 1 for each in ordered))])


def furthest(compared: Sequence[Compared]) -> str:
    """Those that neither reach their share of the peak nor are as fast as data and arithmetic apart, the furthest from
    that first."""
    neither = [each for each in compared if not (each.reaches or each.moves)]
    return _listed(sorted(neither, key=lambda each: each.share / each.apart))


def _listed(some: Sequence[Compared]) -> str:
    rows = [(*CASE_HEADINGS, "pass", "ratio", "%", "apart")]
    for each in some:
        figures = f"{each.ratio:.2f}", f"{100 * each.share:.0f}", f"{100 * each.apart:.0f}"
        rows.append((*each.case.cells, each.of, *figures))
    return markdown_table(rows)


def _ends(numbers: Sequence[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}"


def page(facts: Mapping[str, str], threads: int, repeat: str, compared: Sequence[Compared]) -> str:
    """The whole page. `facts` come from `machine`, taken before the first measurement."""
    lines = {**facts, "kernels compiled for": compiled_for(), "threads": str(threads), "to repeat": f"`{repeat}`"}
    return "".join(
        [
            heading("Random convolutions", "random_convolutions.py", lines),
            f"\n{len(compared) // len(PASSES)} layers in float32 with random square kernels ({_ends(KERNELS)}), "
            f"strides ({_ends(STRIDES)}), maps ({_ends(MAPS)}), sides ({_ends(SIDES)}), paddings and batches "
            f"({_ends(BATCHES)}), of {_ends([round(number / 2e6) for number in OPERATIONS])} million multiply-adds "
            "in a pass. A ratio is PyTorch's time to nnjit's for one pass: the operators that its autograd calls, "
            f"without it, in the better of two orders of memory; results agree to {TOLERANCE:g} of the largest entry. "
            f"Each is a median over {TURNS} turns of the fastest run of each contender, data where their own runs "
            "before left them.\n\n"
            f"Passes reach {100 * ENOUGH:.0f} % of the peak, or they are no slower than if they first touched their "
            "data and then did nothing but multiply-adds at the peak (apart, as in `convolutions.md`), or neither."
            "\n\n",
            summary(compared),
            "\nThe passes with the lowest ratios, and which share of the peak nnjit reaches in them:\n\n",
            slowest(compared),
            "\nThose that reach neither, the furthest from the share that they would have apart first:\n\n",
            furthest(compared),
        ]
    )


@click.command()
@click.option("--layers", "number", type=Count(2), default=120, show_default=True, help="How many.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which.")
@click.option("--threads", type=Count(1, most_threads()), help="All cores unless given.")
@click.option("--seconds", type=Seconds(), default=0.05, show_default=True, help="Of a pass by a contender.")
@click.option("--write", type=PagePath(), metavar="FILE", help="Write a page instead of printing.")
def main(number: int, seed: int, threads: int | None, seconds: float, write: Path | None) -> None:
    """Time every pass of random convolutions beside PyTorch; print how the ratios are spread."""
    threads = threads or get_threads()
    set_threads(threads)
    torch.set_num_threads(threads)
    wait_until_quiet()
    facts = machine()
    compared: list[Compared] = []
    for done, case in enumerate(layers(number, seed), 1):
        compared += compare(case, seconds)
        click.echo(f"{done} of {number}: done", err=True)
    if write is None:
        click.echo(f"{summary(compared)}\n{slowest(compared)}\n{furthest(compared)}", nl=False)
        return
    options = f"--layers {number} --seed {seed} --threads {threads} --seconds {seconds:g} --write FILE"
    repeat = " ".join([*given_compiler(), "python benchmarks/random_convolutions.py", options])
    write_page(write, page(facts, threads, repeat, compared))


if __name__ == "__main__":
    main()
