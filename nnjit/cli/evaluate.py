"""`nnjit evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nnjit.cli.options import overrides_option, threads_option

if TYPE_CHECKING:
    from nnjit.data.splitting import SplitName


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="test",
    show_default=True,
    help="Which split.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@overrides_option("data.test.file=new.csv")
@threads_option
def evaluate(model: Path, split: SplitName, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Print a trained network's loss and metric on a split of the data.

    MODEL is a checkpoint, or the folder of a run, whose best checkpoint is taken. The data files are those that the
    network was trained with, unless others are set; their paths then start from the working directory.

    \b
    Examples:
      nnjit evaluate runs/digits
      nnjit evaluate best.safetensors --set data.test.file=new.csv
    """
    from nnjit.cli.compiling import compiling
    from nnjit.trained import load_model

    with compiling():
        scores = load_model(model, overrides).evaluate(split)
    if as_json:
        click.echo(json.dumps({"split": split, **scores}))
    else:
        for name, value in scores.items():
            click.echo(f"{name} {value:.6g}")
