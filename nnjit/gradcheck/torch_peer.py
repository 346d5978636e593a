"""PyTorch as a peer of the kernels: one function for each kind of layer and loss, gradients by its autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnjit.errors import NnjitError
from nnjit.gradcheck.against import Array
from nnjit.layers import Layer
from nnjit.losses import Loss
from nnjit.reference.network import Result

Tensor: TypeAlias = Any
"""PyTorch is imported when it is asked for, and nothing but this command needs it."""


class Torch:
    """PyTorch in float64, on the CPU. Raises NnjitError when it is not installed."""

    name = "torch"

    def __init__(self) -> None:
        try:
            self._torch = import_module("torch")
        except ImportError:
            raise NnjitError(
                "--against torch needs PyTorch, which is not installed; `pip install 'nnjit[peers]'` installs it"
            ) from None
        f = self._torch.nn.functional

        def conv2d(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            height, width = x.shape[2:]
            pads = (*_pads(layer, 1, width), *_pads(layer, 0, height))  # f.pad begins with the last axis
            return f.conv2d(f.pad(x, pads), weight, bias, layer.stride)

        self.layers: dict[str, Callable[..., Tensor]] = {
            "dense": lambda layer, x, weight, bias=None: f.linear(x, weight, bias),
            "conv2d": conv2d,
            "max_pool": lambda layer, x: f.max_pool2d(x, layer.window, layer.stride, layer.padding),
            "average_pool": lambda layer, x: f.avg_pool2d(
                x, layer.window, layer.stride, layer.padding, count_include_pad=False
            ),
            "flatten": lambda layer, x: x.flatten(1),
            "sigmoid": lambda layer, x: x.sigmoid(),
            "tanh": lambda layer, x: x.tanh(),
            "relu": lambda layer, x: x.relu(),
            "softmax": lambda layer, x: x.softmax(1),
        }
        # PyTorch averages over every entry or sums; nnjit averages over samples what its formula says of one sample.
        self.losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "half_squared_error": lambda out, target: f.mse_loss(out, target, reduction="sum") / 2 / len(out),
            "mean_squared_error": f.mse_loss,
            "softmax_cross_entropy": f.cross_entropy,
            "binary_cross_entropy": lambda out, target: (
                f.binary_cross_entropy_with_logits(out, target, reduction="sum") / len(out)
            ),
        }

    def outputs(self, layers: Sequence[Layer], parameters: Mapping[str, NDArray[Any]], x: NDArray[Any]) -> list[Array]:
        """Every layer's output (N, *shape)."""
        outs = self.forward(layers, self._leaves(parameters), self._leaf(x))
        return [_array(out) for out in outs]

    def run(
        self,
        layers: Sequence[Layer],
        loss: Loss,
        parameters: Mapping[str, NDArray[Any]],
        x: NDArray[Any],
        target: NDArray[Any],
    ) -> Result:
        """Outputs, loss and gradients."""
        leaves, start = self._leaves(parameters), self._leaf(x)
        outs = self.forward(layers, leaves, start)
        wanted = self._torch.tensor(target if loss.needs_labels else target.astype(np.float64))
        cost = self.losses[loss.kind()](outs[-1], wanted)
        cost.backward()
        gradients = {name: _array(leaf.grad) for name, leaf in leaves.items()}
        return Result(float(cost.item()), [_array(out) for out in outs], gradients, _array(start.grad))

    def forward(self, layers: Sequence[Layer], leaves: Mapping[str, Tensor], x: Tensor) -> list[Tensor]:
        """Every layer's output (N, *shape) as a tensor; `leaves` are the parameters by name."""
        outs: list[Tensor] = []
        for position, layer in enumerate(layers):
            prefix = f"layers.{position}."
            own = {name.removeprefix(prefix): leaf for name, leaf in leaves.items() if name.startswith(prefix)}
            x = self.layers[layer.kind()](layer, x, **own)
            outs.append(x)
        return outs

    def _leaf(self, values: NDArray[Any]) -> Tensor:
        return self._torch.tensor(values.astype(np.float64), requires_grad=True)

    def _leaves(self, parameters: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        return {name: self._leaf(values) for name, values in parameters.items()}


def _pads(layer: Any, axis: int, size: int) -> tuple[int, int]:
    """Zeros before and after an image of `size` along `axis`, 0 vertical or 1 horizontal.

    From what padding means, not from the layer's formula, so that the comparison covers that too.
    """
    kernel, stride = layer.kernel[axis], layer.stride[axis]
    if layer.padding == "same":
        # The fewest zeros with which ceil(size / stride) windows fit, an odd one at the end.
        total = next(t for t in range(kernel + stride) if (size + t - kernel) // stride + 1 == -(-size // stride))
        return total // 2, total - total // 2
    each = {"valid": 0, "full": kernel - 1}[layer.padding] if isinstance(layer.padding, str) else layer.padding[axis]
    return each, each


def _array(tensor: Tensor) -> Array:
    values: Array = tensor.detach().numpy()
    return values
