"""`nnjit explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nnjit.cli.options import overrides_option
from nnjit.errors import CheckFailedError, NnjitError

if TYPE_CHECKING:
    from nnjit.data.splitting import SplitName

SUFFIXES = {".md": "markdown", ".html": "html"}


@click.command()
@click.argument("network", metavar="CONFIG|MODEL")
@click.option("--sample", type=int, default=0, show_default=True, metavar="I", help="Which sample of it, from 0.")
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="train",
    show_default=True,
    help="Which split the sample is from.",
)
@click.option("--layer", type=int, metavar="K", help="Only this layer, counted from 0.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "html"]),
    help="What to write; from the name of --out, or text, unless given.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write to a file.")
@overrides_option("model.0.kernel=3")
def explain(
    network: str,
    sample: int,
    split: SplitName,
    layer: int | None,
    form: str | None,
    out: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Write out a network's forward and backward pass.

    CONFIG is a config, whose network is explained as it starts. MODEL is a trained network, given as to evaluate: a
    checkpoint (.safetensors), or the folder of a run, whose best checkpoint is taken; of its config, --set may change
    where the data are.

    For one sample: each layer's formula with its indices and ranges, why its output has its size, and the numbers;
    then the gradients from the loss back to the input, each beside the difference of the cost that confirms it, and
    one step of the optimizer. HTML is one file that needs nothing else. Ends with exit code 5 if a gradient is wrong.

    \b
    Examples:
      nnjit explain configs/two-layer.yaml
      nnjit explain configs/digits.yaml --sample 3 --out digits.html
      nnjit explain runs/digits --split test --sample 12 --layer 0
    """
    from nnjit.cli.compiling import compiling
    from nnjit.config import load_config
    from nnjit.explain import FORMATS, at_the_start, is_model, trained
    from nnjit.explain import explain as write

    with compiling():
        if is_model(network):
            subject = trained(Path(network), split, overrides)
        else:
            subject = at_the_start(load_config(network, overrides), split)
        _check_range("--sample", sample, len(subject.split), "sample", f"the {split} split")
        if layer is not None:
            _check_range("--layer", layer, len(subject.config.model), "layer", "the model")
        document, checks = write(subject, sample, layer)
    chosen = form or (SUFFIXES.get(out.suffix.lower(), "text") if out else "text")
    written = FORMATS[chosen].render(document)
    if out is None:
        click.echo(written, nl=False)
    else:
        try:
            out.write_text(written, encoding="utf-8")
        except OSError as error:
            raise NnjitError(f"{out}: cannot be written: {error.strerror}") from None
    if checks.wrong:
        raise CheckFailedError(f"{checks.wrong} of {checks.entries} gradients are wrong")


def _check_range(option: str, value: int, count: int, noun: str, whole: str) -> None:
    if not 0 <= value < count:
        expected = f"0 to {count - 1}, the {noun}s of {whole}" if count > 1 else f"0, the only {noun} of {whole}"
        raise click.BadParameter(f"expected {expected}, got {value}", param_hint=option)
