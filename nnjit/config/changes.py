"""What differs between two configs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nnjit.config.document import Path
from nnjit.config.schema import Config


def changes(before: Config, now: Config) -> dict[Path, tuple[Any, Any]]:
    """The old and the new value of every place where two configs differ, None where one has no such place."""
    old, new = (dict(_leaves(config.model_dump(mode="json"), ())) for config in (before, now))
    paths = dict.fromkeys([*old, *new])
    return {path: (old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path)}


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """The plain values inside `value`, which stands at `path`, each with its path."""
    if isinstance(value, dict | list):
        for part, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, (*path, part))
    else:
        yield path, value
