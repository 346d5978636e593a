"""The network, loss and optimizer of a config in PyTorch, from the same parameters and the same batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from nnjit.bench.workload import BATCHES
from nnjit.config import Config
from nnjit.data.dataset import Dataset
from nnjit.gradcheck.torch_peer import Torch
from nnjit.layers.activations import Relu, Sigmoid, Softmax, Tanh
from nnjit.layers.base import Layer, Shape
from nnjit.layers.conv2d import Conv2d
from nnjit.layers.dense import Dense
from nnjit.layers.flatten import Flatten
from nnjit.layers.pooling import AveragePool, MaxPool
from nnjit.network import Network
from nnjit.optimizers import Sgd
from nnjit.steps import Scaling

MODES = ("NCHW", "channels-last", "torch.compile")
"""Ways to run the same network: both orders of memory, and compiled from NCHW."""


class Unsupported(Exception):
    """PyTorch's twin of this config, or this mode of it, cannot be made here; the message says why."""


def _convolution(layer: Conv2d, shape: Shape) -> nn.Module:
    vertical, horizontal = layer.axes(shape)
    pads = (horizontal.before, horizontal.after, vertical.before, vertical.after)
    symmetric = pads[0] == pads[1] and pads[2] == pads[3]
    padding = (pads[2], pads[0]) if symmetric else 0
    convolution = nn.Conv2d(shape[0], layer.filters, layer.kernel, layer.stride, padding, bias=layer.bias)
    return convolution if symmetric else nn.Sequential(nn.ZeroPad2d(pads), convolution)


MODULES: dict[type[Layer], Callable[[Any, Shape], nn.Module]] = {
    Dense: lambda layer, shape: nn.Linear(shape[0], layer.units, bias=layer.bias),
    Conv2d: _convolution,
    MaxPool: lambda layer, shape: nn.MaxPool2d(layer.window, layer.stride, layer.padding),
    AveragePool: lambda layer, shape: nn.AvgPool2d(layer.window, layer.stride, layer.padding, count_include_pad=False),
    Flatten: lambda layer, shape: nn.Flatten(),
    Sigmoid: lambda layer, shape: nn.Sigmoid(),
    Tanh: lambda layer, shape: nn.Tanh(),
    Relu: lambda layer, shape: nn.ReLU(),
    Softmax: lambda layer, shape: nn.Softmax(1),
}


def torch_network(network: Network) -> nn.Sequential:
    """The same layers with the same parameters. Raises Unsupported."""
    modules = []
    for position, (layer, (shape, _)) in enumerate(zip(network.layers, pairwise(network.shapes), strict=True)):
        if type(layer) not in MODULES:
            raise Unsupported(f"no PyTorch module is known for the layer {layer.kind()}, model[{position}]")
        modules.append(MODULES[type(layer)](layer, shape))
    model = nn.Sequential(*modules).to(torch.float64 if network.dtype == np.float64 else torch.float32)
    ours = network.layout.unpack(network.weights)
    with torch.no_grad():
        # Both list the parameters layer by layer, weight before bias.
        for (name, values), parameter in zip(ours.items(), model.parameters(), strict=True):
            assert parameter.shape == values.shape, name
            parameter.copy_(torch.from_numpy(values))
    return model


def modes_for(network: Network) -> tuple[str, ...]:
    """The modes that differ for a network: without images there is but one order of memory."""
    images = any(isinstance(layer, Conv2d) for layer in network.layers)
    return MODES if images else tuple(mode for mode in MODES if mode != "channels-last")


class TorchModel:
    """A network in one of MODES, for inputs of shape (N, *shape)."""

    def __init__(self, network: Network, mode: str) -> None:
        self.order = torch.channels_last if mode == "channels-last" else torch.contiguous_format
        self.module = torch_network(network).to(memory_format=self.order)
        self.run: Callable[[torch.Tensor], torch.Tensor] = self.module
        if mode == "torch.compile":
            self.run = torch.compile(self.module)

    def inputs(self, values: np.ndarray) -> torch.Tensor:
        """A batch of inputs in the order of memory of this mode."""
        tensor = torch.from_numpy(np.array(values))
        return tensor.contiguous(memory_format=self.order) if tensor.ndim == 4 else tensor


class TorchTraining:
    """Training steps of a config in one of MODES.

    Batches are scaled, cut and laid out beforehand, and the optimizer is PyTorch's fused one: its loop has nothing to
    do but the step itself. Raises Unsupported.
    """

    def __init__(self, config: Config, dataset: Dataset, network: Network, mode: str) -> None:
        self.model = TorchModel(network, mode)
        self.loss = Torch().losses[config.loss.kind()]
        self.initial = [parameter.detach().clone() for parameter in self.model.module.parameters()]
        self.optimizer = self._optimizer(config)
        self.batches = [self._batch(config, dataset, network, number) for number in range(BATCHES)]

    def _optimizer(self, config: Config) -> torch.optim.Optimizer:
        rule = config.optimizer
        if not isinstance(rule, Sgd):
            raise Unsupported(f"no PyTorch optimizer is known for {rule.kind()}")
        weights = [parameter for parameter in self.model.module.parameters() if parameter.ndim > 1]
        biases = [parameter for parameter in self.model.module.parameters() if parameter.ndim == 1]
        groups = [{"params": weights, "weight_decay": rule.weight_decay}, {"params": biases, "weight_decay": 0.0}]
        return torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=rule.learning_rate,
            momentum=rule.momentum,
            nesterov=rule.nesterov,
            fused=True,
        )

    def _batch(
        self, config: Config, dataset: Dataset, network: Network, number: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = config.train.batch_size
        rows = dataset.train.rows[number * size : (number + 1) * size]
        inputs = _scaled(dataset.train.inputs[rows], Scaling(dataset.shift, dataset.factor), network.dtype)
        targets = dataset.train.targets
        assert targets is not None
        wanted = targets[rows]
        if dataset.classes is None:
            wanted = _scaled(wanted, Scaling(dataset.target_shift, dataset.target_factor), network.dtype)
        elif config.loss.needs_labels:
            wanted = wanted.astype(np.int64)
        elif network.output_shape == (1,):
            wanted = wanted.astype(network.dtype)[:, None]
        else:
            wanted = np.eye(len(dataset.classes), dtype=network.dtype)[wanted]
        return self.model.inputs(inputs), torch.from_numpy(wanted)

    def run(self, number: int) -> float:
        """Train on batch `number` of an endless round; its mean loss."""
        inputs, targets = self.batches[number % BATCHES]
        self.optimizer.zero_grad()
        loss = self.loss(self.model.run(inputs), targets)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def reset(self) -> None:
        """Go back to the start of training."""
        self.optimizer.state.clear()
        with torch.no_grad():
            for parameter, initial in zip(self.model.module.parameters(), self.initial, strict=True):
                parameter.copy_(initial)


class TorchInference:
    """Outputs of a network in one of MODES, for batches that are laid out beforehand."""

    def __init__(self, network: Network, mode: str, blocks: np.ndarray) -> None:
        """`blocks` (blocks, N, *shape): the batches that `run` goes round in."""
        self.model = TorchModel(network, mode)
        self.model.module.eval()
        self.batches = [self.model.inputs(block) for block in blocks]

    def run(self, number: int) -> np.ndarray:
        """The outputs for batch `number` of an endless round."""
        with torch.inference_mode():
            return self.model.run(self.batches[number % len(self.batches)]).numpy()


def _scaled(values: np.ndarray, scaling: Scaling, dtype: Any) -> np.ndarray:
    """(raw - shift) * factor of samples (N, *shape)."""
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    return ((flat - scaling.shift) * scaling.factor).astype(dtype).reshape(values.shape)
