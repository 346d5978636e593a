"""Values that are known when a kernel is compiled: part of a type, so that each one selects code of its own."""

from __future__ import annotations

from typing import TypeVar

from numba import typeof, types
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    lower_getattr_generic,
    models,
    register_model,
    typeof_impl,
    unbox,
)

C = TypeVar("C")


class ConstantType(types.Type):
    """Numba's type of one value of a `constant` class; at run time nothing of it is left."""

    def __init__(self, value):
        self.value = value
        super().__init__(name=repr(value))


register_model(ConstantType)(models.OpaqueModel)


def constant(frozen: type[C]) -> type[C]:
    """Make the instances of a frozen dataclass constants of the kernels that take them: numbers and truth values among
    their fields and properties are numbers in the code. (Numba tells named tuples apart by their elements' types
    alone.)"""
    typeof_impl.register(frozen)(lambda value, context: ConstantType(value))
    return frozen


@unbox(ConstantType)
def _unbox(constant_type, instance, c):
    return NativeValue(c.context.get_dummy_value())


@infer_getattr
class _Attributes(AttributeTemplate):
    key = ConstantType

    def generic_resolve(self, constant_type, name):
        value = getattr(constant_type.value, name, None)
        return typeof(value) if isinstance(value, bool | int) else None


@lower_getattr_generic(ConstantType)
def _lower_attribute(context, builder, constant_type, value, name):
    known = getattr(constant_type.value, name)
    return context.get_constant(typeof(known), known)
