"""Sizes and padding of layers that slide a window over an image: convolution and pooling."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field

Size = Annotated[int, Field(ge=1)]


def _pair(value: Any) -> Any:
    """An int n as (n, n); a list of two as a tuple, so that strict validation takes what YAML gives."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    return tuple(value) if isinstance(value, list) else value


Pair = Annotated[tuple[Size, Size], BeforeValidator(_pair, json_schema_input_type=Size | tuple[Size, Size])]
"""(vertical, horizontal), both at least 1; YAML may give one number for both."""

PadSize = Annotated[int, Field(ge=0)]
PadPair = Annotated[
    tuple[PadSize, PadSize], BeforeValidator(_pair, json_schema_input_type=PadSize | tuple[PadSize, PadSize])
]
"""(vertical, horizontal), both at least 0; YAML may give one number for both."""

NamedPadding = Literal["valid", "same", "full"]


class Axis(NamedTuple):
    """One axis of a sliding window: how many positions it takes and how many zeros stand before and after the input."""

    size: int
    before: int
    after: int


def axis(size: int, kernel: int, stride: int, padding: int | NamedPadding) -> Axis:
    """The axis for an input of `size`; a `size` of the result below 1 means that the window does not fit.

    valid: no padding. same: ceil(size / stride) positions, an odd total of zeros puts one more at the end. full: every
    position where the window overlaps the input. Source: Dumoulin & Visin 2016, arXiv:1603.07285, section 2.
    """
    if padding == "same":
        positions = -(-size // stride)
        total = max((positions - 1) * stride + kernel - size, 0)
        return Axis(positions, total // 2, total - total // 2)
    before = {"valid": 0, "full": kernel - 1}[padding] if isinstance(padding, str) else padding
    return Axis((size + 2 * before - kernel) // stride + 1, before, before)


def no_image(shape: tuple[int, ...]) -> str:
    """What is wrong with an input of `shape`, which is no image."""
    # Only data have two axes: every layer that makes others of them makes a vector.
    remedy = f"; for one channel, set data.shape to [1, {shape[0]}, {shape[1]}]" if len(shape) == 2 else ""
    return f"expected an image of shape (C, H, W), got {shape}{remedy}"


def why_size(shape: tuple[int, ...], window: tuple[int, int], stride: tuple[int, int], axes: tuple[Axis, Axis]) -> str:
    """Why a window over an image of `shape` has so many positions, for `Equations.size`."""
    return " ".join(
        f"{name}: {size} and {on.before} + {on.after} of padding, a window of {extent} in steps of {step}, "
        f"$floor(({size} + {on.before} + {on.after} - {extent}) / {step}) + 1 = {on.size}$ positions."
        for name, size, extent, step, on in zip(("Height", "Width"), shape[1:], window, stride, axes, strict=True)
    )
