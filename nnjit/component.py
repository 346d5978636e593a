"""The parts of a network that a config names by kind: layers, losses, optimizers, initializers.

A family (`Layer`, say) is an abstract subclass of `Component`; each concrete kind is a final subclass of its
family, in a file of its own or beside its siblings, and its typed fields are exactly what YAML may say about
it. Wherever a field is annotated with the family, pydantic accepts any of its kinds, in one of three ways:

    relu                                       the kind alone
    dense: 30                                  the kind and its main field (`shorthand`)
    conv2d: {filters: 6, kernel: 5}            the kind and its fields

`{type: conv2d, filters: 6, kernel: 5}` says the same as the third; resolved configs use that form throughout.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


def _kind_of(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


@cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """The docstrings below the fields of a module's classes: by class, then by field."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    found: dict[str, dict[str, str]] = {}
    for definition in tree.body:
        if isinstance(definition, ast.ClassDef):
            found[definition.name] = {}
            for field, below in pairwise(definition.body):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        found[definition.name][name] = inspect.cleandoc(text)
    return found


class Fields(BaseModel):
    """Typed fields as YAML may write them: none unknown, none converted, none infinite; frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """What the docstrings below the fields say, by field.

        They are read from the source when asked for, not when the class is made (pydantic's
        `use_attribute_docstrings`), which every command would wait 0.1 s for.
        """
        found: dict[str, str] = {}
        for part in reversed(cls.__mro__):
            if issubclass(part, Fields):
                found.update(_docstrings(part.__module__).get(part.__qualname__, {}))
        return {name: found[name] for name in cls.model_fields if name in found}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        written = handler(schema)
        properties = handler.resolve_ref_schema(written)["properties"]
        for name, description in cls.descriptions().items():
            # A reference need not repeat what the definition that it names says.
            if handler.resolve_ref_schema(properties[name]).get("description") != description:
                properties[name]["description"] = description
        return written


class Component(Fields):
    """One kind of a family; a concrete class has a field `type: Literal["name"] = "name"`."""

    shorthand: ClassVar[str | None] = None
    """The field that `kind: value` sets when the value is not a mapping."""
    default_kind: ClassVar[str | None] = None
    """The kind that a mapping of fields has when it names none; a family may set it."""

    @classmethod
    def is_family(cls) -> bool:
        """Whether this class stands for several kinds instead of being one."""
        return "type" not in cls.model_fields

    @classmethod
    def noun(cls) -> str:
        """What messages call a member of this family: layer, loss, optimizer, initializer."""
        return cls.__name__.lower()

    @classmethod
    def kinds(cls) -> dict[str, type[Component]]:
        """The concrete kinds of this family by name, in order of definition."""
        found: dict[str, type[Component]] = {}
        for child in cls.__subclasses__():
            found.update(child.kinds() if child.is_family() else {child.kind(): child})
        return found

    @classmethod
    def kind(cls) -> str:
        """This concrete class's name in a config."""
        return str(cls.model_fields["type"].default)

    @classmethod
    def expand(cls, value: Any) -> Any:
        """`value` as {type: kind, field: value, ...}; `value` itself if it has none of the accepted forms."""
        if isinstance(value, str):
            return {"type": value}
        if not isinstance(value, dict) or "type" in value:
            return value
        kinds = cls.kinds()
        if cls.default_kind and not kinds.keys() & value.keys():
            return {"type": cls.default_kind, **value}
        if len(value) != 1:
            return value
        kind, fields = next(iter(value.items()))
        if isinstance(fields, dict):
            return value if "type" in fields else {"type": kind, **fields}
        if fields is None or kind not in kinds:
            return {"type": kind}
        main = kinds[kind].shorthand
        return {"type": kind, main: fields} if main else value

    @model_serializer(mode="wrap")
    def _kind_first(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"type": self.kind(), **handler(self)}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not cls.is_family() or not cls.kinds():
            return handler(source)
        choices = {kind: handler.generate_schema(child) for kind, child in cls.kinds().items()}
        union = core_schema.tagged_union_schema(choices, discriminator=_kind_of)
        # Holds where a field's type mentions the family; the family's own schema was made before it had kinds.
        # A reference makes the family one definition of the JSON Schema, however many fields use it.
        reference = f"{cls.__module__}.{cls.__qualname__}:{id(cls)}"
        return core_schema.no_info_before_validator_function(cls.expand, union, ref=reference)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        if not cls.is_family() or not cls.kinds():
            return super().__get_pydantic_json_schema__(schema, handler)
        written = handler(schema)
        kinds = cls.kinds()
        definitions = dict(zip(kinds, handler.resolve_ref_schema(written)["oneOf"], strict=True))
        alone = [kind for kind, child in kinds.items() if not any(f.is_required() for f in child.model_fields.values())]
        under_kind: dict[str, JsonSchemaValue] = {}
        for kind, child in kinds.items():
            forms = [{**definitions[kind], "properties": {"type": False}}]
            if child.shorthand:
                forms.append(handler.resolve_ref_schema(definitions[kind])["properties"][child.shorthand])
            if kind in alone:
                forms.append({"type": "null"})
            under_kind[kind] = {"anyOf": forms}
        one_kind = {"type": "object", "properties": under_kind, "additionalProperties": False}
        forms = [
            *([{"enum": alone}] if alone else []),
            {**one_kind, "minProperties": 1, "maxProperties": 1},
            *({**definition, "required": ["type"]} for definition in definitions.values()),
        ]
        if cls.default_kind:
            forms.append(definitions[cls.default_kind])
        return {"title": cls.__name__, "description": cls.__doc__, "anyOf": forms}
