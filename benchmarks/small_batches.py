"""Training steps and predictions with batches of few samples, beside PyTorch.

nnjit computes with 16 samples at a time; images of fewer have their channels in lanes. The workloads are those of
`compare_torch.py`, and networks for larger images.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click
import torch
from compare_torch import AGREEMENT
from contest import ROUNDS, Compared, compare, ratio
from quiet import wait_until_quiet
from results import PagePath, heading, machine, markdown_table, write_page
from workloads import IMAGES, WORKLOADS, chosen, workload

from nnjit.cli.options import Count, Seconds
from nnjit.config import LoadedConfig
from nnjit.errors import CheckFailedError
from nnjit.kernels.threads import get_threads, most_threads, set_threads

BATCHES = (1, 2, 4, 8, 12)
"""Of fewer samples than a block has."""
SLOWER = 10
"""How many times as slowly they train as in proportion to the batch."""


def with_batch(loaded: LoadedConfig, batch: int) -> LoadedConfig:
    """A workload with batches of so many samples."""
    optimizer, train = loaded.config.optimizer, loaded.config.train
    # Gradients of few samples are large: with the rate of the whole batch, losses amplify what rounding makes of them.
    rate = optimizer.learning_rate * batch / train.batch_size / SLOWER
    config = loaded.config.model_copy(
        update={
            "optimizer": optimizer.model_copy(update={"learning_rate": rate}),
            "train": train.model_copy(update={"batch_size": batch}),
        }
    )
    return replace(loaded, config=config)


def ratios(compared: Sequence[Compared]) -> str:
    """A line for each workload and batch."""
    headings = ("training, us", "PyTorch", "ratio", "prediction, us", "PyTorch", "ratio")
    rows = [("workload", "batch", *headings)]
    for each in compared:
        cells = [str(each.batch)]
        for seconds in (each.training, each.prediction):
            cells += [*(f"{1e6 * one:,.0f}" for one in seconds), f"{ratio(seconds):.2f}"]
        rows.append((each.name, *cells))
    return markdown_table(rows)


def page(facts: Mapping[str, str], threads: int, repeat: str, compared: Sequence[Compared]) -> str:
    """The whole page. `facts` come from `machine`, taken before the first measurement."""
    lines = {**facts, "threads": f"{threads}, for every contender", "to repeat": f"`{repeat}`"}
    training, prediction = (min(map(ratio, kind)) for kind in zip(*(each[2:] for each in compared), strict=True))
    return "".join(
        [
            heading("Small batches", "small_batches.py", lines),
            "\nSteps of training, and predictions that go in and come out as ordinary arrays, with fewer samples than "
            "nnjit's vectors have lanes. A ratio is PyTorch's time to nnjit's, in the better of its two orders of "
            f"memory; losses agree step by step, outputs to {AGREEMENT:g}. A figure is the median over {ROUNDS} turns "
            f"of the median run. The least ratios: {training:.2f} in training, {prediction:.2f} in predictions.\n\n",
            ratios(compared),
        ]
    )


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--threads", type=Count(1, most_threads()), help="Of either; all cores unless given.")
@click.option("--seconds", type=Seconds(), default=0.5, show_default=True, help="Of a contender.")
@click.option("--write", type=PagePath(), metavar="FILE", help="Write a page instead of printing.")
def main(names: tuple[str, ...], threads: int | None, seconds: float, write: Path | None) -> None:
    """Time the workloads NAME..., all of them by default, with batches of few samples, beside PyTorch."""
    wanted = chosen(names, (*WORKLOADS, *IMAGES))
    threads = threads or get_threads()
    set_threads(threads)
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    wait_until_quiet()
    facts = machine()
    compared = []
    try:
        for name in wanted:
            for batch in BATCHES:
                compared.append(compare(name, with_batch(workload(name), batch), seconds))
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
