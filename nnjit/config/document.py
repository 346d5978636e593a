"""YAML text as plain values, with the place of every value and key; the numbers are those of YAML 1.2.

PyYAML reads YAML 1.1, where `1e-3` is text and `on`, `1:30` and `010` are true, 90 and 8. Here `1e-3` is a
number, those others are text, and a key that is given twice is a problem.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import yaml

from nnjit.errors import ConfigError

Path: TypeAlias = tuple[str | int, ...]
"""Keys and list indexes that lead to a value."""

_TAG = "tag:yaml.org,2002:"
_RESOLVERS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": r"<<",
}
_CONSTRUCTORS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": int,
    "float": lambda text: float(re.sub(r"\.(?=[in])", "", text.lower())),
    "str": str,
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[Any, Any] = {}


for _name, _pattern in _RESOLVERS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), None)


class Place(NamedTuple):
    """Where something was written; places sort in reading order."""

    line: int
    column: int
    text: str
    """file:line:column, or the override that wrote it."""


class Problem(NamedTuple):
    """What is wrong with the value at a path; problems sort in reading order."""

    place: Place
    path: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place.text, self.path, self.message) if part)


def refusal(problems: Sequence[Problem]) -> ConfigError:
    """The error that lists `problems`, each once."""
    return ConfigError("\n".join(str(problem) for problem in sorted(set(problems))))


def show(path: Path) -> str:
    """`path` as messages write it: model[3].conv2d."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


@dataclass
class Document:
    """A YAML document as plain values, with places."""

    value: Any = None
    values: dict[Path, Place] = field(default_factory=dict)
    """Where the value at a path of the text begins."""
    keys: dict[Path, Place] = field(default_factory=dict)
    """Where the key that ends a path of the text stands."""
    overrides: list[tuple[Path, Place]] = field(default_factory=list)
    """Paths that were given later, with what gave them, oldest first."""
    problems: list[Problem] = field(default_factory=list)
    """Keys given twice; the first one counts."""

    def place(self, path: Path, loc: Path) -> Place:
        """Where the value at `path` (`loc`: the same with kinds) was written, or the one around it."""
        return self._override_of(path) or self.values[self._written(loc)]

    def place_of_key(self, path: Path, loc: Path, key: str) -> Place:
        """Where `key` was written in the mapping at `path`, which `loc` gives with kinds."""
        place = self._override_of((*path, key)) or self.keys.get((*self._written(loc), key))
        return place or self.place(path, loc)

    def _override_of(self, path: Path) -> Place | None:
        given = (place for start, place in reversed(self.overrides) if path[: len(start)] == start)
        return next(given, None)

    def _written(self, loc: Path) -> Path:
        """`loc` without the parts that the text leaves out: kinds after `type`, main fields in shorthand."""
        here: Path = ()
        for part in loc:
            if (*here, part) in self.values:
                here = (*here, part)
        return here

    def value_at(self, loc: Path) -> Any:
        """The value at `loc`, passing over the parts that the document does not have."""
        here: Any = self.value
        for part in loc:
            parts = here if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
            if part in parts:
                here = here[part]
        return here


def to_yaml(value: Any) -> str:
    """YAML text that `read` reads back as `value`."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)


def read(text: str, place: Callable[[int, int], Place]) -> Document:
    """The YAML document `text`; `place` makes a Place of a line and a column, both counted from 1.

    Raises ConfigError where the text is not YAML, or is YAML of a sort that no config needs.
    """
    reader = _Reader(place)
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            reader.document.value = reader.construct(node, (), ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        assert mark is not None  # PyYAML's parser always gives one
        message = ", ".join(part for part in (error.context, error.problem) if part)
        if text[mark.index : mark.index + 1] == "\t":
            message += "; indent with spaces, not tabs"
        if re.match(r"-\s*$", text[mark.index :], re.MULTILINE):
            message += "; for standard input write '-' in quotes"
        raise refusal([Problem(reader.at(mark), "", f"not YAML: {message}")]) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        spot = place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise refusal([Problem(spot, "", f"not YAML: control character {text[error.position]!r}")]) from None
    except RecursionError:
        raise refusal([Problem(place(1, 1), "", "nested too deeply")]) from None
    return reader.document


class _Reader:
    """Collects what PyYAML's nodes say into a Document."""

    def __init__(self, place: Callable[[int, int], Place]) -> None:
        self.place = place
        self.document = Document()

    def at(self, mark: yaml.Mark | None) -> Place:
        assert mark is not None  # nodes made from text always have one
        return self.place(mark.line + 1, mark.column + 1)

    def refuse(self, node: yaml.Node, path: Path, message: str) -> ConfigError:
        return refusal([Problem(self.at(node.start_mark), show(path), message)])

    def construct(self, node: yaml.Node, path: Path, parents: tuple[yaml.Node, ...]) -> Any:
        """The value of `node`, which stands at `path` inside `parents`."""
        if node in parents:
            raise self.refuse(node, path, "an alias of something that it is a part of")
        self.document.values[path] = self.at(node.start_mark)
        inside = (*parents, node)
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            entries = self.entries(node, path)
            for name, (key, _) in entries.items():
                self.document.keys[(*path, name)] = self.at(key.start_mark)
            return {name: self.construct(value, (*path, name), inside) for name, (_, value) in entries.items()}
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.construct(item, (*path, i), inside) for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.ScalarNode) or kind not in _CONSTRUCTORS:
            raise self.refuse(node, path, f"the YAML tag {node.tag!r} has no meaning here")
        try:
            return _CONSTRUCTORS[kind](node.value)
        except (ValueError, KeyError):
            raise self.refuse(node, path, f"{abridged(node.value)} cannot be read as {kind}") from None

    def entries(self, node: yaml.MappingNode, path: Path) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """The key and value nodes of a mapping by name, with those that `<<` merges into it."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":
                for base in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(base, yaml.MappingNode):
                        raise self.refuse(base, path, "`<<` takes an alias of a mapping, or a list of them")
                    merged = {**self.entries(base, path), **merged}
            elif not isinstance(key, yaml.ScalarNode):
                raise self.refuse(key, path, "expected a name as key, got a mapping or a list")
            elif key.value in own:
                first = self.at(own[key.value][0].start_mark)
                message = f"given twice, first at {first.text}"
                self.document.problems.append(Problem(self.at(key.start_mark), show((*path, key.value)), message))
            else:
                own[key.value] = (key, value)
        return {**merged, **own}


def abridged(value: Any) -> str:
    """`value` as messages show it: its repr, cut short when it is long."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
