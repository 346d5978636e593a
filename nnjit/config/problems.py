"""pydantic's errors in our words: what was expected, what came, and where it was written."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from nnjit.component import Component
from nnjit.config.document import Document, Problem, abridged, show
from nnjit.config.location import locate

_TYPES = {
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "object": "a mapping",
    "null": "null",
}
_BOUNDS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "of at most",
    "exclusiveMaximum": "below",
}


def describe(error: ErrorDetails, document: Document) -> Problem:
    """`error`, which came from validating `document`.

    The error's type tells apart missing and unknown fields, kinds, and rules of a class's own (a validator's
    ValueError, custom types). All others say that a value breaks its declaration, which the message shows.
    """
    *above, last = error["loc"] or ("",)
    name = str(last)
    here = locate(tuple(above) if error["type"] == "missing" else error["loc"])
    place = document.place(here.path, here.loc)
    got = f"got {abridged(document.value_at(here.loc))}"
    match error["type"]:
        case "missing" if here.model:
            message = f"missing field {name!r} ({_declared(here.model, name)})"
        case "extra_forbidden" if here.model:
            place = document.place_of_key(here.path, here.loc, name)
            message = f"unknown field {name!r}{_hint(name, here.model.model_fields)}"
        case "union_tag_invalid" if here.family:
            kind = error["ctx"]["tag"]
            place = document.place((*here.path, "type"), (*here.loc, "type"))
            message = f"unknown {here.family.noun()} {kind!r}{_hint(kind, here.family.kinds())}"
        case "union_tag_not_found" if here.family:
            message = f"expected {_spellings(here.family, document.value_at(here.loc))}, {got}"
        case "value_error":
            message = str(error["ctx"]["error"])
        case _ if "url" in error:  # the types that are pydantic's own
            message = f"expected {_declared(here.owner, here.path[-1])}, {got}"
        case _:
            message = f"{error['msg']}, {got}"
    return Problem(place, show(here.loc), message)


def _hint(name: str, known: Iterable[str]) -> str:
    """What to write for `name`: what looks like it, has it as initials (lr) or begins with it; else all."""
    names = list(known)
    close = get_close_matches(name.lower(), names, n=1)
    close += [other for other in names if "".join(word[:1] for word in other.split("_")) == name]
    close += [other for other in names if other.startswith(f"{name}_")]
    return f" (did you mean {close[0]!r}?)" if close else f"; known: {', '.join(names)}"


def _spellings(family: type[Component], value: Any) -> str:
    """The ways to write a component, or the one for the kind that `value` names."""
    named = [kind for kind in family.kinds() if isinstance(value, dict) and [*value] == [kind]]
    if named:
        return f"a mapping of fields under {named[0]!r}, without `type`"
    return f"{_a(family.noun())}: its name, or {{name: fields}}"


def _declared(owner: type[BaseModel], field: str | int) -> str:
    """What `field` of `owner` may be, in words, from its JSON Schema."""
    schema = owner.model_json_schema()
    return _either(_words(schema["properties"][field], schema.get("$defs", {})))


def _words(schema: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """The alternatives that `schema` allows."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return ["a mapping" if definitions[name].get("type") == "object" else _a(name.lower())]
    arms = schema.get("anyOf", schema.get("oneOf"))
    if arms:
        return list(dict.fromkeys(words for arm in arms for words in _words(arm, definitions)))
    if "const" in schema or "enum" in schema:
        return [repr(value) for value in schema.get("enum", [schema.get("const")])]
    if schema["type"] == "array":
        return [_list_words(schema, definitions)]
    bounds = [f"{words} {schema[key]:g}" for key, words in _BOUNDS.items() if key in schema]
    return [" ".join([_TYPES[schema["type"]], " and ".join(bounds)]).strip()]


def _list_words(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    if most and least != most:
        length = f" of {least} to {most}"
    else:
        length = f" of {least}" if most else f" of at least {least}" if least else ""
    item = schema["items"] if "items" in schema else schema["prefixItems"][0]
    return f"a list{length} (each {_either(_words(item, definitions))})"


def _either(words: list[str]) -> str:
    """The alternatives `words` in a phrase."""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
