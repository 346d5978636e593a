"""What every registered layer and loss must pass, and the cases that it must pass it for: a layer brings its own.

The kernels are held against `nnjit.reference` and, in float64, against central differences of their own forward pass.
Cases are few on purpose: each tile, epilogue and dtype is a kernel that takes a third of a second to compile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

from nnjit import network
from nnjit.buffers import Buffer
from nnjit.kernels.compiler import JIT
from nnjit.kernels.program import Program
from nnjit.kernels.simd import lanes
from nnjit.kernels.winograd_transforms import Form
from nnjit.layers import Layer, Shape
from nnjit.losses import Loss, LossSite
from nnjit.network import Network
from nnjit.parameters import aligned_zeros
from nnjit.passes import convolution, weight_gradients
from nnjit.reference.network import forward
from nnjit.tuning import algorithms
from nnjit.tuning.algorithms import ChannelsPass, ImagePass, form_for

Array = NDArray[Any]

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
TOLERANCE = {np.float32: 1e-4, np.float64: 1e-11}
"""Largest error against the reference, as a fraction of the largest entry."""

SAMPLES = 11
"""Two blocks in float64, the second of them and the only one in float32 not full."""


def layer_cases() -> list[tuple[Layer, Shape]]:
    """Every example of every registered layer, with the shape of its input."""
    return [
        (cast(Layer, layer_class.model_validate(example.fields)), example.shape)
        for layer_class in cast(dict[str, type[Layer]], Layer.kinds()).values()
        for example in layer_class.examples
    ]


LAYER_CASES = layer_cases()

LABELS, VECTORS, IMAGES, BINARY, COLUMN = "labels", "vectors", "images", "binary labels", "column"
LOSS_CASES: list[tuple[str, str]] = [
    ("half_squared_error", VECTORS),
    ("half_squared_error", IMAGES),
    ("half_squared_error", LABELS),
    ("mean_squared_error", VECTORS),
    ("mean_squared_error", IMAGES),
    ("mean_squared_error", COLUMN),
    ("softmax_cross_entropy", LABELS),
    ("binary_cross_entropy", VECTORS),
    ("binary_cross_entropy", IMAGES),
    ("binary_cross_entropy", LABELS),
    ("binary_cross_entropy", BINARY),
]


def compiled_only(reason: str) -> pytest.MarkDecorator:
    """Skip a test where kernels run as Python."""
    return pytest.mark.skipif(not JIT, reason=f"NUMBA_DISABLE_JIT is set: {reason}")


def require_all(what: str, kinds: Iterable[str], known: Iterable[str]) -> None:
    """Fail with the names of the kinds that are not among the known."""
    missing = sorted(set(kinds) - set(known))
    if missing:
        pytest.fail(f"no {what} for: {', '.join(missing)}")


def brief(value: Any) -> str:
    """A case's part as the name of a test shows it: of a layer, the kind and the fields that are given."""
    if not isinstance(value, Layer):
        return "x".join(str(size) for size in value)
    return " ".join([value.kind(), *(f"{name}={getattr(value, name)}" for name in sorted(value.model_fields_set))])


def layers_of(*specs: Any) -> list[Layer]:
    """Layers as a config names them."""
    return TypeAdapter(list[Layer]).validate_python(list(specs))


def loss_of(spec: Any) -> Loss:
    """A loss as a config names it."""
    return TypeAdapter(list[Loss]).validate_python([spec])[0]


# Layers


class Passes(NamedTuple):
    """What a forward and a backward pass over N samples give."""

    out: Array
    """(N, *shape)"""
    dx: Array
    """(N, *shape)"""
    gradients: dict[str, Array]
    """By the parameters' names."""

    def bits(self) -> dict[str, bytes]:
        """Every array's bytes."""
        return {name: array.tobytes() for name, array in _named(self).items()}


class Stack:
    """Layers bound to a batch size, with random parameters: the passes of nnjit's kernels as functions of arrays."""

    def __init__(
        self,
        layers: Sequence[Layer],
        shape: Shape,
        dtype: Any,
        batch_size: int = SAMPLES,
        *,
        fused: bool = True,
        keep_gradients: bool = False,
    ) -> None:
        self.layers = list(layers)
        self.network = Network(self.layers, shape, dtype, seed=0, fused=fused)
        rng = np.random.default_rng(5)
        parameters = {name: rng.normal(0, 0.5, array.shape) for name, array in self.parameters().items()}
        self.network.layout.pack(parameters, self.network.weights)
        self.bound = self.network.bind(batch_size, input_gradient=True, keep_gradients=keep_gradients)
        self._forward, self._backward = Program(self.bound.forward), Program(self.bound.backward)

    def parameters(self) -> dict[str, Array]:
        """The parameters by name, in conventional shapes."""
        return self.network.layout.unpack(self.network.weights)

    def forward(self, x: Array) -> Array:
        """The outputs (N, *shape) for inputs x (N, *shape)."""
        self.bound.x.write(x)
        self._forward.run()
        return self.bound.out.read(len(x))

    def run(self, x: Array, dout: Array) -> Passes:
        """Both passes for inputs x and gradients dout of the outputs."""
        out = self.forward(x)
        assert self.bound.dout is not None and self.bound.dx is not None
        self.bound.dout.write(dout)
        self._backward.run()
        return Passes(out, self.bound.dx.read(len(x)), self.bound.named_gradients())

    def random(self, samples: int = SAMPLES) -> tuple[Array, Array]:
        """Random inputs and gradients of the outputs."""
        rng, dtype = np.random.default_rng(6), self.network.dtype
        x = rng.standard_normal((samples, *self.network.shapes[0])).astype(dtype)
        return x, rng.standard_normal((samples, *self.network.output_shape)).astype(dtype)


@cache
def stack_of_one(layer: Layer, shape: Shape, dtype: Any, batch_size: int = SAMPLES) -> Stack:
    """A stack of one layer, shared by the tests of that layer: linking its calls takes longer than running them."""
    return Stack([layer], shape, dtype, batch_size)


@contextmanager
def channels(taken: bool) -> Iterator[None]:
    """Images of a batch that does not fill a block with channels in lanes, or with samples."""

    def choose(samples: int, lanes: int, costs: Any) -> bool:
        return taken and samples < lanes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "choose_channels_in_lanes", choose)
        yield


@contextmanager
def winograd_of_channels() -> Iterator[None]:
    """Winograd's algorithm wherever it can serve passes through images with channels in lanes."""

    def choose(kernel: Any, stride: Any, samples: int, lanes: int, direct: ImagePass, of: ChannelsPass) -> Form | None:
        return form_for(kernel, stride) if of.outputs else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "choose_channels_form", choose)
        yield


@contextmanager
def remainders(taken: bool) -> Iterator[None]:
    """All samples that do not fill a block taken apart, or none, and samples in lanes."""

    def choose(samples: int, lanes: int, *sizes: Any) -> int:
        return samples % lanes if taken else 0

    with pytest.MonkeyPatch.context() as patch, channels(taken=False):
        patch.setattr(convolution, "choose_remainder", choose)
        patch.setattr(weight_gradients, "choose_weights_remainder", choose)
        patch.setattr(algorithms, "choose_dense_remainder", choose)
        yield


def by_reference(layers: Sequence[Layer], parameters: Mapping[str, Array], x: Array, dout: Array) -> Passes:
    """The same passes by the formulas."""
    outputs, backwards = forward(layers, parameters, x)
    gradient, gradients = dout.astype(np.float64), dict[str, Array]()
    for index in reversed(range(len(layers))):
        gradient, own = backwards[index](gradient)
        gradients.update({f"layers.{index}.{name}": value for name, value in own.items()})
    return Passes(outputs[-1], gradient, gradients)


def by_differences(stack: Stack, x: Array, dout: Array) -> Passes:
    """The same by central differences of sum(out * dout), through the stack's own forward pass in float64."""
    step = 1e-5
    weights, layout = stack.network.weights, stack.network.layout

    def slope(array: Array, index: Any) -> float:
        value = array[index]
        costs = []
        for moved in (value + step, value - step):
            array[index] = moved
            costs.append(float((stack.forward(x) * dout).sum()))
        array[index] = value
        return (costs[0] - costs[1]) / (2 * step)

    gradients = {
        name: np.array([slope(weights, int(at)) for at in layout.indices(name).flat]).reshape(array.shape)
        for name, array in stack.parameters().items()
    }
    dx = np.array([slope(x, index) for index in np.ndindex(x.shape)]).reshape(x.shape)
    return Passes(stack.forward(x), dx, gradients)


def relative_error(actual: Array, expected: Array) -> float:
    """Largest difference as a fraction of the largest entry; 0 where all is 0, infinity where an entry is NaN, which
    `max` would pass over."""
    assert actual.shape == expected.shape
    scale = float(np.abs(expected).max())
    difference = float(np.abs(actual - expected).max())
    error = difference / scale if difference else 0.0
    return math.inf if math.isnan(error) else error


def errors(actual: Passes, expected: Passes) -> dict[str, float]:
    """The relative error of every array of two passes over the same samples."""
    left, right = _named(actual), _named(expected)
    assert left.keys() == right.keys()
    return {name: relative_error(left[name], right[name]) for name in left}


def _named(passes: Passes) -> dict[str, Array]:
    return {"out": passes.out, "dx": passes.dx, **passes.gradients}


# Losses


class BoundLoss:
    """A loss after a network with outputs of `shape`: its cost and gradient as functions of arrays."""

    def __init__(self, loss: Loss, shape: Shape, dtype: Any, batch_size: int = SAMPLES) -> None:
        blocks = -(-batch_size // lanes(dtype))
        self._out, self._target, self._dout = (Buffer.allocate(blocks, shape, dtype) for _ in range(3))
        costs, scores = (aligned_zeros((blocks, lanes(dtype)), dtype) for _ in range(2))
        self.site = LossSite(self._out, self._target, self._dout, costs, scores, np.zeros(1, np.int64))
        loss.bind(self.site)
        self._program = Program(self.site.calls)

    def run(self, out: Array, target: Array) -> tuple[Array, Array]:
        """The costs of all lanes (blocks * L,) and the gradient (N, *shape) of their mean over N samples; target
        (N, *shape)."""
        lanes_in_all = self._out.blocks * self._out.view.vectors.shape[1]
        # Lanes without a sample hold what the biases make of a blank one, not zeros.
        spare = np.ones((lanes_in_all - len(out), *out.shape[1:]), out.dtype)
        self._out.write(np.concatenate([out, spare]))
        self._target.write(target)
        self._dout.view.vectors[:] = np.nan
        self.site.count[0] = len(out)
        self._program.run()
        gradient = self._dout.read(lanes_in_all)
        assert not gradient[len(out) :].any(), "a lane without a sample has a gradient"
        return self.site.costs.ravel(), gradient[: len(out)]


def loss_case(form: str, samples: int, dtype: Any) -> tuple[Array, Array, Array]:
    """Outputs, targets as a data set has them, and the same targets in the shape of the outputs."""
    rng = np.random.default_rng(8)
    shape = {IMAGES: (2, 3, 4), BINARY: (1,), COLUMN: (1,)}.get(form, (5,))
    out = rng.standard_normal((samples, *shape)).astype(dtype)
    if form == LABELS:
        labels = rng.integers(0, 5, samples)
        return out, labels, np.eye(5, dtype=dtype)[labels]
    if form == BINARY:
        labels = rng.integers(0, 2, samples)
        return out, labels, labels[:, None].astype(dtype)
    target = rng.random((samples, *shape)).astype(dtype)
    return out, target, target
