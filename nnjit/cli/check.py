"""`nnjit check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nnjit.cli.options import overrides_option

if TYPE_CHECKING:
    from nnjit.data.dataset import Split


@click.command()
@click.argument("config")
@overrides_option()
def check(config: str, overrides: tuple[str, ...]) -> None:
    """Check a config and its data without training.

    Every file is read as training reads it: numbers are finite, labels are known, shapes fit the layers. What was found
    is printed.
    """
    from nnjit.config import load_config
    from nnjit.prepare import prepare

    loaded = load_config(config, overrides)
    dataset = prepare(loaded)
    click.echo(f"input       shape {dataset.shape}, {dataset.train.inputs.dtype} in the file")
    if dataset.classes is None:
        click.echo(f"target      shape {dataset.target_shape}")
    else:
        click.echo(f"classes     {len(dataset.classes)}: {_abridged(dataset.classes)}")
    for name in ("train", "validation", "test"):
        split = getattr(dataset, name)
        click.echo(f"{name:<12}" + ("none" if split is None else _describe(split, dataset.classes)))
    batch = loaded.config.train.batch_size
    click.echo(f"epoch       {-(-len(dataset.train) // batch)} steps of {batch} samples")


def _describe(split: Split, classes: list[str] | None) -> str:
    """The size of a split and, for class labels, of its classes."""
    if classes is None or split.targets is None:
        return f"{len(split)} samples"
    import numpy as np

    counts = np.bincount(split.targets[split.rows], minlength=len(classes))
    return f"{len(split)} samples, {counts.min()} to {counts.max()} of each class"


def _abridged(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
