"""Families of components: what their kinds are called, and the ways to write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from nnjit.component import Component
from nnjit.initializers import Initializer
from nnjit.layers import Layer
from nnjit.losses import Loss
from nnjit.optimizers import Optimizer


class Toy(Component):
    """A family with an abstract branch."""

    default_kind = "ball"


class Ball(Toy):
    type: Literal["ball"] = "ball"
    shorthand = "size"
    size: int
    """From side to side."""
    soft: bool = True


class Wheeled(Toy):
    wheels: int = 4
    """How many wheels.

    They are round.
    """


class Car(Wheeled):
    type: Literal["car"] = "car"


class Empty(Component):
    """A family without kinds."""


TOY = TypeAdapter(Annotated[Toy, "mentioned"])
FAMILIES = [Layer, Loss, Optimizer, Initializer]
KINDS = [pytest.param(family, kind, id=kind) for family in FAMILIES for kind in family.kinds()]


def test_kinds_are_the_concrete_classes_at_any_depth() -> None:
    assert Toy.kinds() == {"ball": Ball, "car": Car}
    assert Toy.is_family() and Wheeled.is_family() and not Car.is_family()


def test_families_have_names_for_messages() -> None:
    assert [family.noun() for family in FAMILIES] == ["layer", "loss", "optimizer", "initializer"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("car", Car()),
        ({"car": None}, Car()),
        ({"car": {}}, Car()),
        ({"car": {"wheels": 3}}, Car(wheels=3)),
        ({"type": "car", "wheels": 3}, Car(wheels=3)),
        ({"ball": 5}, Ball(size=5)),
        ({"ball": {"size": 5, "soft": False}}, Ball(size=5, soft=False)),
        ({"size": 5, "soft": False}, Ball(size=5, soft=False)),
        ({"size": 5}, Ball(size=5)),
        (Car(wheels=3), Car(wheels=3)),
    ],
)
def test_spellings(written: Any, meant: Toy) -> None:
    assert TOY.validate_python(written) == meant


@pytest.mark.parametrize(
    "written",
    [
        {"car": 3},  # no main field
        {"car": {"type": "ball"}},
        {"car": None, "ball": 3},
        {"car": {"wheels": True}},
        {"bike": 3},
        "bike",
        3,
        None,
        ["car"],
    ],
)
def test_refused(written: Any) -> None:
    with pytest.raises(ValidationError):
        TOY.validate_python(written)


def test_expand_leaves_its_argument_alone() -> None:
    written = {"car": {"wheels": 3}}
    assert Toy.expand(written) == {"type": "car", "wheels": 3}
    assert written == {"car": {"wheels": 3}}


def test_components_are_written_with_their_kind_first() -> None:
    assert list(Car(wheels=3).model_dump()) == ["type", "wheels"]


def test_components_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Car().wheels = 3


def test_docstrings_below_fields_describe_them() -> None:
    """Inherited fields too, and those of no other field."""
    assert Car.descriptions() == {"wheels": "How many wheels.\n\nThey are round."}
    assert Ball.descriptions() == {"size": "From side to side."}
    properties = Ball.model_json_schema()["properties"]
    assert properties["size"]["description"] == "From side to side."
    assert "description" not in properties["soft"]


def test_a_family_without_kinds_has_a_schema() -> None:
    assert TypeAdapter(Empty).json_schema()["properties"] == {}


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_every_kind_in_every_spelling(family: type[Component], kind: str) -> None:
    child = family.kinds()[kind]
    fields = child.model_fields.items()
    required = {name: [2] if name == "values" else 2 for name, field in fields if field.is_required()}
    adapter = TypeAdapter(Annotated[family, "mentioned"])
    meant = child.model_validate(required)
    assert adapter.validate_python({kind: required}) == meant
    assert adapter.validate_python({"type": kind, **required}) == meant
    if not required:
        assert adapter.validate_python(kind) == meant
    if child.shorthand:
        main = required.get(child.shorthand, 2)
        assert adapter.validate_python({kind: main}) == child.model_validate({**required, child.shorthand: main})
    assert adapter.validate_python(adapter.dump_python(meant, mode="json")) == meant
