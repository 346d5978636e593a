"""`nnjit predict`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from nnjit.cli.options import Count, threads_option
from nnjit.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nnjit.trained import TrainedModel


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("file", default="-")
@click.option("--format", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True, help="What to write.")
@click.option(
    "--probabilities", is_flag=True, help="Add each class's probability, or its output where the loss defines none."
)
@click.option("--block", type=Count(1), default=256, show_default=True, help="Samples that are answered at once.")
@threads_option
def predict(model: Path, file: str, format: Literal["csv", "jsonl"], probabilities: bool, block: int) -> None:
    """Print a trained network's answers to new inputs.

    MODEL is a checkpoint, or the folder of a run, whose best checkpoint is taken. FILE is a table of inputs (CSV), a
    .npy or an IDX file; standard input unless given. A class is answered by its name, a number in the units of the
    training targets. With --block 1 every line is answered as it comes. Blocks of less than 16 (8 in float64) have
    kernels of their own, which are compiled once; the last digits of numbers may differ from those of larger ones.

    \b
    Examples:
      cut -d, -f1-64 data/digits/test.csv | nnjit predict runs/digits | head
      nnjit predict best.safetensors images.npy --format jsonl --probabilities
    """
    from nnjit.cli.compiling import compiling
    from nnjit.data.inputs import read_inputs
    from nnjit.trained import load_model

    trained = load_model(model)
    if probabilities and trained.classes is None:
        raise ConfigError("--probabilities: expected a network that tells classes apart; this one predicts numbers")
    with_numbers = probabilities or trained.classes is None
    outputs = trained.outputs(read_inputs(file, trained.network.shapes[0], block_rows=block), block)
    with compiling():
        first = list(islice(outputs, 1))
    table = csv.writer(sys.stdout, lineterminator="\n")
    if format == "csv":
        names = trained.answer_names if with_numbers else []
        table.writerow(names if trained.classes is None else ["class", *names])
    for part in chain(first, outputs):
        answers = _answers(trained, part, with_numbers)
        if format == "csv":
            table.writerows(([name] if name is not None else []) + numbers for name, numbers in answers)
        else:
            sys.stdout.writelines(_json_line(trained, name, numbers) for name, numbers in answers)
        sys.stdout.flush()


def _answers(
    trained: TrainedModel, outputs: NDArray[Any], with_numbers: bool
) -> Iterator[tuple[str | None, list[str]]]:
    """For each of `outputs` the class, None if there are no classes, and the numbers as text.

    The text is the shortest that reads back as the same bits.
    """
    numbers = trained.answers(outputs).astype(str).tolist() if with_numbers else [[]] * len(outputs)
    labels = [None] * len(outputs) if trained.classes is None else trained.class_names(outputs)
    return zip(labels, numbers, strict=True)


def _json_line(trained: TrainedModel, name: str | None, numbers: list[str]) -> str:
    values = dict(zip(trained.answer_names, map(float, numbers), strict=False))
    if name is None:
        return json.dumps(values) + "\n"
    return json.dumps({"class": name, "probabilities": values} if values else {"class": name}) + "\n"
