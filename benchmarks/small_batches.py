"""Training steps and predictions with batches of few samples, beside PyTorch.

nnjit computes with 16 samples at a time; images of fewer have their channels in lanes. The workloads are those of
`compare_torch.py`, and networks for larger images.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click
import numpy as np
import torch
from compare_torch import AGREEMENT, NNJIT, NnjitInference, check_agreement, losses_of, torch_trainings, warn_if_busy
from results import PagePath, heading, machine, markdown_table, write_page
from torch_peer import MODES, TorchInference, modes_for
from workloads import IMAGES, WORKLOADS, chosen, workload

from nnjit.bench.timing import race
from nnjit.bench.workload import bind_workload, measured_data
from nnjit.cli.options import Seconds
from nnjit.config import Config
from nnjit.errors import CheckFailedError
from nnjit.kernels.threads import get_threads, set_threads
from nnjit.trainer import build_network

BATCHES = (1, 2, 4, 8, 12)
"""Of fewer samples than a block has."""
EAGER = tuple(mode for mode in MODES if mode != "torch.compile")
"""PyTorch's modes: compiling takes a minute for each network and batch."""
SLOWER = 10
"""How many times as slowly they train as in proportion to the batch."""
ROUNDS = 5
"""Turns of each contender."""


class Compared(NamedTuple):
    """A workload with one size of batches: the seconds of a step, or of a batch of predictions."""

    name: str
    batch: int
    training: tuple[float, float]
    """nnjit's, and those of PyTorch's better mode."""
    prediction: tuple[float, float]


def fastest(contenders: Mapping[str, Callable[[int], object]], seconds: float) -> tuple[float, float]:
    """The median seconds of a run by nnjit and by the fastest of the others, which run for `seconds` each, in turns."""
    times = {name: median(each) for name, each in race(contenders, ROUNDS, seconds / ROUNDS).items()}
    return times.pop(NNJIT), min(times.values())


def compare(name: str, batch: int, seconds: float) -> Compared:
    """A workload with batches of `batch` samples, `seconds` for a contender. Raises CheckFailedError if losses or
    outputs differ."""
    loaded = workload(name)
    optimizer, train = loaded.config.optimizer, loaded.config.train
    # Gradients of few samples are large: with the rate of the whole batch, losses amplify what rounding makes of them.
    rate = optimizer.learning_rate * batch / train.batch_size / SLOWER
    config = loaded.config.model_copy(
        update={
            "optimizer": optimizer.model_copy(update={"learning_rate": rate}),
            "train": train.model_copy(update={"batch_size": batch}),
        }
    )
    subject = bind_workload(config, measured_data(replace(loaded, config=config)))
    modes = [mode for mode in modes_for(subject.network) if mode in EAGER]
    peers = torch_trainings(subject, modes, [])
    ours = losses_of(subject.run)
    for mode, peer in peers.items():
        check_agreement(name, mode, ours, losses_of(peer.run))
    training = fastest({NNJIT: subject.run, **{mode: peer.run for mode, peer in peers.items()}}, seconds)
    return Compared(name, batch, training, predictions(config, batch, modes, seconds))


def predictions(config: Config, batch: int, modes: Sequence[str], seconds: float) -> tuple[float, float]:
    """The seconds of a batch of predictions, as `fastest` gives them. Raises CheckFailedError if they differ."""
    assert config.data.shape is not None
    network = build_network(config, config.data.shape)
    blocks = np.random.default_rng(0).random((4, batch, *config.data.shape), np.float32)
    ours = NnjitInference(network, blocks)
    outputs = ours.run(0)
    contenders: dict[str, Callable[[int], object]] = {NNJIT: ours.run}
    for mode in modes:
        peer = TorchInference(network, mode, blocks)
        theirs = peer.run(0)
        found = float(np.abs(outputs - theirs).max() / np.abs(theirs).max())
        if not found <= AGREEMENT:
            raise CheckFailedError(f"expected outputs that agree to {AGREEMENT:g}, got {found:g} ({mode})")
        contenders[mode] = peer.run
    return fastest(contenders, seconds)


def ratios(compared: Sequence[Compared]) -> str:
    """A line for each workload and batch."""
    headings = ("training, us", "PyTorch", "ratio", "prediction, us", "PyTorch", "ratio")
    rows = [("workload", "batch", *headings)]
    for each in compared:
        cells = [str(each.batch)]
        for ours, theirs in (each.training, each.prediction):
            cells += [f"{1e6 * ours:,.0f}", f"{1e6 * theirs:,.0f}", f"{theirs / ours:.2f}"]
        rows.append((each.name, *cells))
    return markdown_table(rows)


def page(facts: Mapping[str, str], threads: int, repeat: str, compared: Sequence[Compared]) -> str:
    """The whole page. `facts` come from `machine`, taken before the first measurement."""
    lines = {**facts, "threads": f"{threads}, for every contender", "to repeat": f"`{repeat}`"}
    least = {
        kind: min(getattr(each, kind)[1] / getattr(each, kind)[0] for each in compared) for kind in Compared._fields[2:]
    }
    return "".join(
        [
            heading("Small batches", "small_batches.py", lines),
            "\nSteps of training, and predictions that go in and come out as ordinary arrays, with fewer samples than "
            "nnjit's vectors have lanes. A ratio is PyTorch's time to nnjit's, in the better of its two orders of "
            f"memory; losses agree step by step, outputs to {AGREEMENT:g}. A figure is the median over {ROUNDS} turns "
            f"of the median run. The least ratios: {least['training']:.2f} in training, {least['prediction']:.2f} in "
            "predictions.\n\n",
            ratios(compared),
        ]
    )


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--threads", type=int, help="Threads of either; all cores unless given.")
@click.option("--seconds", type=Seconds(), default=0.5, show_default=True, help="Of a contender.")
@click.option("--write", type=PagePath(), metavar="FILE", help="Write a page instead of printing.")
def main(names: tuple[str, ...], threads: int | None, seconds: float, write: Path | None) -> None:
    """Time the workloads NAME..., all of them by default, with batches of few samples, beside PyTorch."""
    wanted = chosen(names, (*WORKLOADS, *IMAGES))
    threads = threads or get_threads()
    set_threads(threads)
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    facts = machine()
    warn_if_busy()
    compared = []
    try:
        for name in wanted:
            for batch in BATCHES:
                compared.append(compare(name, batch, seconds))
                click.echo(f"{name}, batch {batch}: done", err=True)
    except CheckFailedError as error:
        raise click.ClickException(str(error)) from None
    if write is None:
        click.echo(ratios(compared), nl=False)
        return
    options = [*names, "--threads", str(threads), "--seconds", f"{seconds:g}", "--write FILE"]
    write_page(write, page(facts, threads, " ".join(["python benchmarks/small_batches.py", *options]), compared))


if __name__ == "__main__":
    main()
