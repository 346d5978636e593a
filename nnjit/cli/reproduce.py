"""`nnjit reproduce`."""

from __future__ import annotations

from pathlib import Path

import click

from nnjit.cli.options import overrides_option, threads_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--epochs", type=click.IntRange(1), metavar="K", help="Only the first K epochs; all recorded unless given."
)
@overrides_option("data.train.file=moved.csv")
@threads_option
def reproduce(run: Path, epochs: int | None, overrides: tuple[str, ...]) -> None:
    """Train a recorded run again and compare bit for bit.

    RUN is the folder of a run. It is trained again in a temporary folder, from the config, the seed and the learning
    rates in its last checkpoint, and every epoch is compared with its line in metrics.jsonl: the digest of the
    parameters and all scores. The first difference ends it with exit code 5. Any number of threads gives the same bits.

    \b
    Examples:
      nnjit reproduce runs/digits --epochs 3
      nnjit reproduce runs/digits --set data.train.file=moved/train.csv
    """
    from tempfile import TemporaryDirectory

    from nnjit.cli.compiling import compiling
    from nnjit.reproduce import Reproduction

    with TemporaryDirectory(prefix="nnjit-") as scratch:
        with compiling():
            reproduction = Reproduction(run, Path(scratch, "run"), overrides)
        equal = 0
        for record in reproduction.epochs(epochs):
            equal += 1
            click.echo(f"epoch {record['epoch']}: digest {record['digest']}, the same")
    click.echo(f"{run}: {equal} {'epoch' if equal == 1 else 'epochs'} reproduced bit for bit")
