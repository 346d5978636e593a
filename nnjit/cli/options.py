"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


class Seconds(click.FloatRange):
    """A number of seconds above 0; neither NaN, which is in every range, nor infinity."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(0, min_open=True)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        seconds: float = super().convert(value, parameter, context)
        if not math.isfinite(seconds):
            self.fail(f"expected a finite number, got {value!r}", parameter, context)
        return seconds


class Count(click.IntRange):
    """A whole number in a range; what is none is refused in the words of a plain integer."""

    name = "integer"


def threads_option(function: Function) -> Function:
    """Add --threads N, which holds for every kernel that is bound afterwards."""
    return click.option(
        "--threads",
        type=int,
        metavar="N",
        expose_value=False,
        callback=_use_threads,
        help="Threads to compute with; all cores unless given. Results are the same.",
    )(function)


def overrides_option(example: str = "train.epochs=5") -> Callable[[Function], Function]:
    """Add --set KEY=VALUE, given to the function as `overrides`; the help shows `example`."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help=f"Override a key of the config, such as {example}; the last one wins.",
    )


def _use_threads(context: click.Context, parameter: click.Parameter, threads: int | None) -> None:
    if threads is None:
        return
    from nnjit.kernels.threads import most_threads, set_threads

    if not 1 <= threads <= most_threads():
        raise click.BadParameter(f"expected 1 to {most_threads()}, the cores that this process may use, got {threads}")
    set_threads(threads)
