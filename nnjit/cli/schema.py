"""`nnjit schema`."""

from __future__ import annotations

import json

import click


@click.command()
def schema() -> None:
    """Print the JSON Schema of config files, for editors.

    \b
    Example, for editors that use the YAML language server:
      nnjit schema > nnjit.schema.json
      and as the first line of a config: # yaml-language-server: $schema=nnjit.schema.json
    """
    from nnjit.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
