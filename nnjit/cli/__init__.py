"""The command line: a file per command, for parsing and printing only.

Commands are imported when they run, and import what computes when they compute, so that help answers at once.
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, TextIO

import click

from nnjit import __version__
from nnjit.errors import ConfigError, InterruptedRun, NnjitError

COMMANDS = {
    "train": "Train a network.",
    "evaluate": "Print a trained network's loss and metric on a split of the data.",
    "predict": "Print a trained network's answers to new inputs.",
    "check": "Check a config and its data without training.",
    "summary": "Print the layers with their shapes, parameters and costs.",
    "gradcheck": "Check gradients against differences of the loss.",
    "doctor": "Check a network, its data and its first steps before training.",
    "reproduce": "Train a recorded run again and compare bit for bit.",
    "explain": "Write out a network's forward and backward pass.",
    "bench": "Measure the speed of training steps, layer by layer.",
    "warmup": "Compile kernels ahead of time.",
    "info": "Print versions, CPU, threads and the kernel cache.",
    "schema": "Print the JSON Schema of config files, for editors.",
}
"""Each command, which is the function of that name in the module of that name, with its short help."""

EXIT_CODES = """\b
Exit codes:
  0    done
  1    the system refused (a full or read-only disk), or a fault of nnjit
  2    wrong usage or config
  3    wrong data or checkpoint
  4    training diverged; the last good checkpoint is kept
  5    a check failed
  130  interrupted (Ctrl-C); the state of a training run is saved
  143  terminated (SIGTERM); likewise
"""


class Commands(click.Group):
    """The group of COMMANDS; every error ends here as a message and an exit code."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(COMMANDS)}"
            context.fail(f"no command {name!r}; {remedy}")
        command: click.Command = getattr(import_module(f"nnjit.cli.{name}"), name)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *arguments: Any, **extra: Any) -> Any:
        _open_closed_streams()
        return super().main(*arguments, **extra)

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        with _ending():  # --help and --version print while words are parsed
            return super().make_context(*arguments, **extra)

    def invoke(self, context: click.Context) -> Any:
        with _ending(), warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            _check_threads()
            result = super().invoke(context)
            sys.stdout.flush()
            return result


@contextmanager
def _ending() -> Iterator[None]:
    """Let every error in the block end the command, with a message and an exit code."""
    try:
        yield
    except NnjitError as error:
        _say(str(error) if isinstance(error, InterruptedRun) else f"error: {error}")
        code = error.exit_code
    except BrokenPipeError:
        _give_up(sys.stdout)  # whoever reads (head, say) has enough
        code = 0
    except (OSError, MemoryError) as error:
        _give_up(sys.stdout)
        _say(f"error: {_refusal(error)}")
        code = 1
    except KeyboardInterrupt:
        code = 130
    except click.ClickException as error:
        _tell(error.show)
        code = error.exit_code
    except click.exceptions.Exit:
        raise
    except Exception:
        _say(traceback.format_exc().rstrip())
        _say("error: a fault of nnjit; a report of it should hold these lines and `nnjit info`")
        code = 1
    else:
        return
    raise click.exceptions.Exit(code)


def _open_closed_streams() -> None:
    """Let standard streams that are closed, which Python leaves out, read nothing and write nowhere.

    In their order they get the lowest free numbers, which are their own; else a file opened later would, and would take
    in what is written to that number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="replace", closefd=False))


def _check_threads() -> None:
    """Raise ConfigError for a number of threads in the environment with which Numba fails, or which it passes over."""
    given = os.environ.get("NUMBA_NUM_THREADS", "")
    try:
        refused = bool(given) and int(given) < 1
    except ValueError:
        refused = True
    if refused:
        raise ConfigError(f"NUMBA_NUM_THREADS: expected a whole number of at least 1, got {given!r}")


def _say(message: str) -> None:
    """Print a message on standard error."""
    _tell(lambda: click.echo(message, err=True))


def _tell(show: Callable[[], None]) -> None:
    """Let `show` print on standard error; where nothing can be printed, the exit code alone has to tell."""
    try:
        show()
    except OSError:
        _give_up(sys.stderr)


def _give_up(stream: TextIO) -> None:
    """Let a last flush of a standard stream, at exit, go nowhere instead of failing again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _refusal(error: OSError | MemoryError) -> str:
    """What the system said."""
    if isinstance(error, MemoryError):
        return f"not enough memory ({error})" if str(error) else "not enough memory"
    return f"{error.filename or 'standard output'}: {error.strerror}"


@click.command(cls=Commands, name="nnjit", epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Train neural networks that a YAML file declares, on the CPU.

    Results go to standard output; progress, warnings and errors go to standard error.
    """
