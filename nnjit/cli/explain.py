"""`nnjit explain`."""

from __future__ import annotations

from pathlib import Path

import click

from nnjit.cli.options import overrides_option
from nnjit.errors import CheckFailedError, NnjitError

SUFFIXES = {".md": "markdown", ".html": "html"}


@click.command()
@click.argument("config")
@click.option("--sample", type=int, default=0, show_default=True, metavar="I", help="Which training sample, from 0.")
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
    config: str, sample: int, layer: int | None, form: str | None, out: Path | None, overrides: tuple[str, ...]
) -> None:
    """Write out a network's forward and backward pass.

    For one training sample, at the start of training: each layer's formula with its indices and ranges, why its output
    has its size, and the numbers; then the gradients from the loss back to the input, each beside the difference of
    the cost that confirms it, and one step of the optimizer. HTML is one file that needs nothing else. Ends with exit
    code 5 if a gradient is wrong.

    \b
    Examples:
      nnjit explain configs/two-layer.yaml
      nnjit explain configs/digits.yaml --sample 3 --out digits.html
    """
    from nnjit.cli.compiling import compiling
    from nnjit.config import load_config
    from nnjit.explain import FORMATS
    from nnjit.explain import explain as write
    from nnjit.prepare import prepare

    loaded = load_config(config, overrides)
    dataset = prepare(loaded)
    _check_range("--sample", sample, len(dataset.train), "samples of the training split")
    if layer is not None:
        _check_range("--layer", layer, len(loaded.config.model), "layers of the model")
    with compiling(quiet=False):
        document, checks = write(loaded, dataset, sample, layer)
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


def _check_range(option: str, value: int, count: int, what: str) -> None:
    if not 0 <= value < count:
        raise click.BadParameter(f"expected 0 to {count - 1}, the {what}, got {value}", param_hint=option)
