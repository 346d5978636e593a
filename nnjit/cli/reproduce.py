"""`nnjit reproduce`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from nnjit.cli.options import Count, overrides_option, threads_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--epochs", type=Count(1), metavar="K", help="Only the first K epochs; all recorded unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each epoch instead of lines.")
@overrides_option("data.train.file=moved.csv")
@threads_option
def reproduce(run: Path, epochs: int | None, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Train a recorded run again and compare bit for bit.

    RUN is the folder of a run. It is trained again in a temporary folder, from the config, the seed and the learning
    rates in its last checkpoint, and every epoch is compared with its line in metrics.jsonl: the digest of the
    parameters and all scores; after the last, the parameters and the optimizer's arrays with that checkpoint. The first
    difference is named and ends it with exit code 5. Any number of threads gives the same bits.

    \b
    Examples:
      nnjit reproduce runs/digits --epochs 3
      nnjit reproduce runs/digits --set data.train.file=moved/train.csv
      nnjit reproduce runs/digits --json | jq 'select(.same | not)'
    """
    from tempfile import TemporaryDirectory

    from nnjit.cli.compiling import compiling
    from nnjit.reproduce import Reproduction

    with TemporaryDirectory(prefix="nnjit-") as scratch:
        with compiling(quiet=as_json):
            reproduction = Reproduction(run, Path(scratch, "run"), overrides)
        equal = 0
        for epoch in reproduction.epochs(epochs):
            if as_json:
                click.echo(json.dumps({**epoch._asdict(), "same": not epoch.difference}))
            if epoch.difference:
                raise reproduction.failure(epoch)
            equal += 1
            if not as_json:
                click.echo(f"epoch {epoch.epoch}: digest {epoch.digest}, the same")
    if not as_json:
        click.echo(f"{run}: {equal} {'epoch' if equal == 1 else 'epochs'} reproduced bit for bit")
