"""`nnjit train`."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nnjit.cli.options import overrides_option, threads_option
from nnjit.cli.starting import collecting_rarely

if TYPE_CHECKING:
    from nnjit.trainer import Trainer


@click.command()
@click.argument("config")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the run; runs/<name of the config>, or -2, -3, ... after it, unless given.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out, or with the latest run of this config.")
@overrides_option()
@threads_option
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors and the result.")
def train(config: str, out: Path | None, resume: bool, overrides: tuple[str, ...], quiet: bool) -> None:
    """Train a network.

    CONFIG is a YAML file, or - for standard input; paths in it, and in --set, start from its folder. The run's folder
    gets the resolved config, metrics.jsonl with a line per epoch, last.safetensors to go on from and best.safetensors
    to use; the path of the latter is printed.

    --resume takes the run's own config; only train.epochs, train.checkpoint_every, optimizer.learning_rate and the
    paths of the data may differ. Another learning rate is said, with the step that it comes at.

    Ctrl-C or SIGTERM saves after the running step. With the same config the same bits come out however often a run is
    stopped and resumed, and on any number of threads.

    \b
    Examples:
      nnjit train configs/digits.yaml --set train.epochs=5
      nnjit train configs/digits.yaml --resume --set train.epochs=50
    """
    from nnjit.stopping import StopRequest

    stop = StopRequest() if quiet else StopRequest(_announce)
    with stop.listening():
        with collecting_rarely():
            trainer = _start(config, out, resume, overrides, quiet)
        if trainer is None:
            return

        if quiet:
            for _ in trainer.epochs(stop):
                pass
        else:
            from nnjit.cli.progress import reporting

            with reporting(trainer) as report:
                for record in trainer.epochs(stop, report.on_batch):
                    report.on_epoch(record)
    click.echo(trainer.folder.best)


def _start(config: str, out: Path | None, resume: bool, overrides: tuple[str, ...], quiet: bool) -> Trainer | None:
    """A run that is ready to train; None after a word about it if all its epochs are done."""
    from nnjit.config import dump, load_config
    from nnjit.run_folder import new_run, run_to_resume

    loaded = load_config(config, overrides)
    run = run_to_resume(config, out) if resume else new_run(config, out)

    from nnjit.resuming import changed_steps, read_state

    state = read_state(run, loaded) if resume else None
    if state and state.progress.epoch >= loaded.config.train.epochs:
        done = f"{run.path}: all {state.progress.epoch} epochs are done; for more: --set train.epochs=N"
        if not quiet:
            click.echo(done, err=True)
        click.echo(run.best)
        return None

    from nnjit.prepare import prepare

    dataset = prepare(loaded)

    from nnjit.cli.compiling import compiling
    from nnjit.trainer import Trainer

    resolved = dump(loaded.located())
    with ExitStack() as on_failure:
        if state is None:
            # Made now, so that a disk that cannot be written is found before kernels are compiled.
            run.create(resolved)
            on_failure.callback(run.discard)
        with compiling(quiet):
            trainer = Trainer(loaded.located(), dataset, run, state)
        on_failure.pop_all()
    if state is not None:
        if not quiet:
            for line in changed_steps(state, run, loaded):
                click.echo(line, err=True)
        run.keep_epochs(state.progress.epoch)
        run.write_config(resolved)
    return trainer


def _announce(number: int) -> None:
    """Say that a signal came; by a system call, since a handler may interrupt a print."""
    name = signal.Signals(number).name
    os.write(2, f"{name}: stopping after the next step; a second signal stops at once\n".encode())
