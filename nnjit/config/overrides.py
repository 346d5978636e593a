"""`--set KEY=VALUE`: values from the command line, put into a document as if its text had said so."""

from __future__ import annotations

import sys
from typing import Any

from nnjit.config.document import Document, Path, Place, Problem, abridged, read, show
from nnjit.config.location import Location


def override(document: Document, assignment: str, number: int) -> None:
    """Put `assignment`, the override of that number, into `document`, whose value must be a mapping.

    `assignment` is KEY=VALUE: a path with dots, such as model.0.units, and YAML, or `-` as text. An unknown field is
    left for validation to find; a path that leads nowhere is added to the document's problems.

    Raises ConfigError where VALUE is not YAML.
    """
    place = Place(sys.maxsize, number, f"--set {assignment}")
    key, equals, text = assignment.partition("=")
    if not equals:
        document.problems.append(Problem(place, "", "expected KEY=VALUE, such as train.epochs=5"))
        return
    # YAML takes a lone dash for a list of one empty item; here it is standard input, as on any command line.
    parsed = read("'-'" if text.strip() == "-" else text, lambda line, column: place)
    document.problems += parsed.problems

    try:
        path = _put(parsed.value, key.split("."), document.value, Location())
    except LookupError as error:
        document.problems.append(Problem(place, *error.args))
    else:
        document.overrides.append((path, place))


def _put(new: Any, names: list[str], inside: Any, here: Location) -> Path:
    """Put `new` at `names` in `inside`, which stands at `here`; return the outermost path that this made.

    Raises LookupError(path, message) where something on the way has no such part.
    """
    part: Any
    part, *rest = names
    if isinstance(inside, list):
        if not (part.isdecimal() and int(part) < len(inside)):
            raise LookupError(show(here.loc), f"expected an index below {len(inside)}, got {part!r}")
        part = int(part)
    elif not isinstance(inside, dict):
        raise LookupError(show(here.loc), f"{abridged(inside)} has no field {part!r}")
    there = here.at(part)
    old = inside[part] if isinstance(inside, list) else inside.get(part)
    if not rest:
        inside[part] = new
        return there.path
    value = {} if old is None else old
    if there.family:
        value = there.family.expand(value)
        kind = value.get("type") if isinstance(value, dict) else None
        if kind in there.family.kinds():
            there = there.of_kind(kind)
            if rest == [kind]:  # model.0.dense=30, as the text may write it
                inside[part] = {kind: new}
                return there.path
            if rest[0] == kind:  # model.0.dense.units=30, as messages write it
                rest = rest[1:]
    inside[part] = value
    path = _put(new, rest, value, there)
    return there.path if old is None else path
