"""What the schema says about a place in a config: which class's field it is, and what may stand there."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag

from nnjit.component import Component
from nnjit.config.document import Path
from nnjit.config.schema import Config


def _types(annotation: Any, tag: str = "") -> dict[str, Any]:
    """The types that `annotation` allows (None aside), by their tags in a tagged union, else by ""."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        return _types(inner, next((item.tag for item in metadata if isinstance(item, Tag)), tag))
    if origin in (Union, UnionType):
        return {name: found for arm in get_args(annotation) for name, found in _types(arm).items()}
    return {} if annotation is NoneType else {tag: annotation}


@dataclass(frozen=True)
class Location:
    """A place in a config; the default is the top."""

    path: Path = ()
    """Keys and indexes that lead there in a resolved config."""
    loc: Path = ()
    """The same with the kind of each component after it, as in model[3].conv2d.filters."""
    owner: type[BaseModel] = Config
    """The class whose field this is."""
    types: dict[str, Any] = field(default_factory=lambda: {"": Config})
    """What may stand there, by tag; empty where the schema has no such place."""

    @property
    def model(self) -> type[BaseModel] | None:
        """The class of the mapping that stands there, if only one may."""
        found = self.types.get("")
        if not isinstance(found, type) or get_origin(found):  # to Python 3.10, list[int] is a type too
            return None
        return found if issubclass(found, BaseModel) else None

    @property
    def family(self) -> type[Component] | None:
        """The family of the component that stands there, as long as its kind is open."""
        model = self.model
        return model if model and issubclass(model, Component) and model.is_family() else None

    @property
    def kinds(self) -> dict[str, Any]:
        """The classes of the component or tagged source that stands there."""
        return {**self.types, **self.family.kinds()} if self.family else self.types

    def of_kind(self, kind: str) -> Location:
        """The same place, when what stands there is of that kind."""
        loc = (*self.loc, kind) if self.family else self.loc
        return Location(self.path, loc, self.owner, {"": self.kinds[kind]})

    def at(self, part: str | int) -> Location:
        """The place at a key or index of this one."""
        owner, types, here = self.owner, {}, self.types.get("")
        if self.model and part in self.model.model_fields:
            owner, types = self.model, _types(self.model.model_fields[str(part)].annotation)
        elif isinstance(part, int) and get_origin(here) is list:
            types = _types(*get_args(here))
        return Location((*self.path, part), (*self.loc, part), owner, types)


def locate(loc: Path) -> Location:
    """The place that `loc`, as in pydantic's errors, leads to, or the last on the way that the schema has."""
    here = Location()
    for part in loc:
        there = here.of_kind(part) if part in here.kinds and isinstance(part, str) else here.at(part)
        if not there.types:
            break
        here = there
    return here
