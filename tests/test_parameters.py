"""The flat vector of parameters: its layout, and the arrays of conventional shape that go in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from battery import DTYPES, layers_of
from numpy.testing import assert_array_equal

from nnjit.layers import Layer
from nnjit.network import Network
from nnjit.parameters import Layout, aligned_zeros, random_stream

LAYERS: list[Layer] = layers_of(
    {"conv2d": {"filters": 3, "kernel": [2, 3], "bias_init": {"normal": 1.0}}},
    "relu",
    "flatten",
    {"dense": {"units": 19, "bias_init": {"normal": 1.0}}},
    {"dense": {"units": 5, "bias": False}},
)
SHAPE = (2, 4, 5)


def network(dtype: Any = np.float32, seed: int = 1) -> Network:
    return Network(LAYERS, SHAPE, dtype, seed)


def test_names_and_shapes_are_the_conventional_ones() -> None:
    net = network()
    arrays = net.layout.unpack(net.weights)
    assert {name: array.shape for name, array in arrays.items()} == {
        "layers.0.weight": (3, 2, 2, 3),
        "layers.0.bias": (3,),
        "layers.3.weight": (19, 27),
        "layers.3.bias": (19,),
        "layers.4.weight": (5, 19),
    }
    assert list(arrays) == net.layout.names
    assert net.layout.count == sum(array.size for array in arrays.values())


@DTYPES
def test_packing_undoes_unpacking_and_makes_padding_zero(dtype: Any) -> None:
    layout = network(dtype).layout
    rng = np.random.default_rng(1)
    arrays = {name: rng.standard_normal(array.shape) for name, array in layout.unpack(layout.zeros()).items()}
    flat = layout.zeros()
    flat[:] = np.nan  # as a run that diverged leaves it
    layout.pack(arrays, flat)
    for name, array in layout.unpack(flat).items():
        assert array.dtype == dtype
        assert_array_equal(array, arrays[name].astype(dtype))
    assert np.count_nonzero(flat) == layout.count < layout.size


@DTYPES
def test_weights_come_before_biases_and_each_parameter_at_a_whole_vector(dtype: Any) -> None:
    layout = network(dtype).layout
    places: list[Any] = [layout.indices(name).ravel() for name in layout.names]
    assert len(np.unique(np.concatenate(places))) == layout.count
    for name, at in zip(layout.names, places, strict=True):
        stored = layout.stored(np.arange(layout.size), name)
        assert stored[0] % layout.lanes == 0 and len(stored) % layout.lanes == 0
        assert set(at) <= set(stored)
        assert (at < layout.decayed).all() == name.endswith("weight")
        assert (at >= layout.decayed).all() == name.endswith("bias")
    assert layout.decayed % layout.lanes == 0


def test_a_dense_layers_weights_lie_with_the_outputs_innermost() -> None:
    layout = network(np.float64).layout
    stored = layout.stored(np.arange(layout.size), "layers.3.weight")
    at = layout.indices("layers.3.weight")
    # (ceil(19 / 8), 27, 8)
    assert_array_equal(at, stored.reshape(3, 27, 8).transpose(0, 2, 1).reshape(24, 27)[:19])


def test_a_missing_or_unknown_name_is_refused() -> None:
    layout = Layout([("layers.0.bias", LAYERS[0].parameters(SHAPE)[1])], np.float32)
    with pytest.raises(ValueError) as caught:
        layout.pack({"layers.1.bias": np.zeros(3, np.float32)}, layout.zeros())
    assert str(caught.value) == (
        "expected the parameters ['layers.0.bias'], missing ['layers.0.bias'], unknown ['layers.1.bias']"
    )


def test_a_wrong_shape_is_refused() -> None:
    layout = Layout([("layers.0.bias", LAYERS[0].parameters(SHAPE)[1])], np.float32)
    with pytest.raises(ValueError) as caught:
        layout.pack({"layers.0.bias": np.zeros(4, np.float32)}, layout.zeros())
    assert str(caught.value) == "layers.0.bias: expected shape (3,), got (4,)"


@pytest.mark.parametrize("size", [1, 100, 1001])
@DTYPES
def test_vectors_are_aligned(dtype: Any, size: int) -> None:
    zeros = aligned_zeros((size, 3), dtype)
    assert zeros.shape == (size, 3) and zeros.dtype == dtype and not zeros.any()
    assert zeros.ctypes.data % 64 == 0
    assert network(dtype).weights.ctypes.data % 64 == 0


# The first values


def test_the_seed_fixes_every_bit() -> None:
    assert network(seed=1).weights.tobytes() == network(seed=1).weights.tobytes()
    first, second = (net.layout.unpack(net.weights) for net in (network(seed=1), network(seed=2)))
    assert all((first[name] != second[name]).all() for name in first)


def test_precisions_start_at_the_same_numbers() -> None:
    single, double = network(np.float32), network(np.float64)
    for name, array in double.layout.unpack(double.weights).items():
        assert_array_equal(single.layout.unpack(single.weights)[name], array.astype(np.float32))


def test_each_parameter_has_a_stream_of_its_own() -> None:
    """A change of one layer's size leaves the values of the others, and equal parameters differ."""
    arrays = [
        net.layout.unpack(net.weights)
        for units in (4, 9)
        for net in [Network(layers_of({"dense": units}, "flatten", {"dense": units}), (units,), np.float64, 1)]
    ]
    assert (arrays[0]["layers.0.weight"] != arrays[0]["layers.2.weight"]).all()
    wide = Network([LAYERS[0], *layers_of("flatten", {"dense": 7})], SHAPE, np.float64, 1)
    usual = network(np.float64)
    assert_array_equal(
        wide.layout.unpack(wide.weights)["layers.0.weight"], usual.layout.unpack(usual.weights)["layers.0.weight"]
    )


def test_streams_differ_by_seed_and_by_every_part_of_the_key() -> None:
    keys = [(1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0), (0, 1, 0), (1,), (1, 0)]
    draws = {random_stream(seed, *key).integers(1 << 62) for seed, *key in keys}
    assert len(draws) == len(keys)
    assert random_stream(1, 0, 1).integers(1 << 62) in draws


@pytest.mark.parametrize("shape", [(1 << 61,), (1 << 40, 1 << 40), (10**20, 16)])
def test_arrays_beyond_every_address_are_too_large_for_memory(shape: tuple[int, ...]) -> None:
    """Not a ValueError as NumPy has it, nor a size that overflows and fits."""
    with pytest.raises(MemoryError, match="Unable to allocate an array"):
        aligned_zeros(shape, np.float32)
