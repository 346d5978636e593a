"""The parts of a network that a config names by kind: layers, losses, optimizers, initializers.

A family (`Layer`, say) is an abstract subclass of `Component`; each concrete kind is a final subclass of its family, in a
file of its own or beside its siblings, and its typed fields are exactly what YAML may say about it. Wherever a typed field is
annotated with the family, pydantic accepts any of its kinds, written in one of three ways:

    relu                                       the kind alone
    dense: 30                                  the kind and its main field (`shorthand`)
    conv2d: {filters: 6, kernel: 5}            the kind and its fields
    {type: conv2d, filters: 6, kernel: 5}      the same in the form that resolved configs use
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


def _kind_of(value: Any) -> str | None:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


class Component(BaseModel):
    """One kind of a family; a concrete class has a field `type: Literal["name"] = "name"`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    shorthand: ClassVar[str | None] = None
    """The field that `kind: value` sets when the value is not a mapping."""

    @classmethod
    def kinds(cls) -> dict[str, type[Component]]:
        """The concrete kinds of this family by name, in order of definition."""
        found: dict[str, type[Component]] = {}
        for child in cls.__subclasses__():
            if "type" in child.model_fields:
                found[child.kind()] = child
            found.update(child.kinds())
        return found

    @classmethod
    def kind(cls) -> str:
        """This concrete class's name in a config."""
        return str(cls.model_fields["type"].default)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if "type" in cls.model_fields or not cls.kinds():
            return handler(source)
        choices = {kind: handler.generate_schema(child) for kind, child in cls.kinds().items()}
        union = core_schema.tagged_union_schema(choices, discriminator=_kind_of)
        return core_schema.no_info_before_validator_function(cls._expand, union)

    @classmethod
    def _expand(cls, value: Any) -> Any:
        """`value` in the form {type: kind, field: value, ...}; left as it is when it has none of the accepted forms."""
        if isinstance(value, str):
            return {"type": value}
        if isinstance(value, dict) and "type" not in value and len(value) == 1:
            kind, fields = next(iter(value.items()))
            if fields is None:
                return {"type": kind}
            if isinstance(fields, dict):
                return {"type": kind, **fields}
            child = cls.kinds().get(kind)
            if child is not None and child.shorthand:
                return {"type": kind, child.shorthand: fields}
        return value
