"""`nnjit summary`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from nnjit.cli.options import overrides_option
from nnjit.cli.text import in_bytes

HEADINGS = ("", "layer", "output", "parameters", "multiply-adds", "receptive field")


@click.command()
@click.argument("config")
@overrides_option()
def summary(config: str, overrides: tuple[str, ...]) -> None:
    """Print the layers with their shapes, parameters and costs.

    Of the data, nothing but the head of the training file is read. Multiply-adds are those of the forward pass for one
    sample; a training step takes about three times as many. The receptive field is the part of the input, height by
    width, that one entry of a layer's output depends on.
    """
    from nnjit.config import load_config
    from nnjit.prepare import check_shapes
    from nnjit.summary import summarize

    loaded = load_config(config, overrides)
    shapes = check_shapes(loaded)
    found = summarize(loaded.config, shapes)
    rows = [HEADINGS, ("", "input", _by(shapes[0]), "", "", "")]
    for position, layer in enumerate(found.layers):
        counts = f"{layer.parameters:,}", f"{layer.multiply_adds:,}"
        rows.append((str(position), layer.kind, _by(layer.shape), *counts, _by(layer.field) if layer.field else "all"))
    rows.append(("", "total", "", f"{found.parameters:,}", f"{found.multiply_adds:,}", ""))
    _print_table(rows)
    state = "".join(f" and {name}" for name in loaded.config.optimizer.state)
    click.echo(f"\nmemory for parameters, gradients{state}: {in_bytes(found.parameter_bytes)}")
    batch = loaded.config.train.batch_size
    click.echo(f"memory for activations and their gradients, batches of {batch}: {in_bytes(found.activation_bytes)}")


def _by(shape: Sequence[int]) -> str:
    """A shape as people write it: 16x8x8."""
    return "x".join(map(str, shape))


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns: text to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        aligned = [
            cell.ljust(width) if column in (1, 2, 5) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(aligned).rstrip())
