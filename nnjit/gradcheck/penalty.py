"""Weight decay against its penalty: the data's loss is checked alone, then this alone.

The decay of an optimizer is the gradient of lambda/2 * |w|**2 over the weights, biases left out. So one step of the
optimizer's kernel with decay and no gradient of the data must equal one without decay on the penalty's gradient, which
is taken by central differences of lambda/2 * w**2. Compared are the steps divided by the learning rate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.gradcheck.check import TensorReport
from nnjit.kernels.program import Program
from nnjit.network import Network
from nnjit.optimizers import Optimizer, OptimizerSite

STEP = 0.1
"""Of the differences; any would do, for truncation leaves no error in a parabola."""
TOLERANCES = {"float64": 1e-9, "float32": 1e-4}
"""Of the relative error."""


def check_penalty(network: Network, optimizer: Optimizer) -> list[TensorReport]:
    """A row for all parameters together, named after the one with the worst entry; none without decay."""
    decay = float(getattr(optimizer, "weight_decay", 0.0))
    if not decay:
        return []
    layout = network.layout
    tolerance = TOLERANCES[layout.dtype.name]
    weights = network.weights.astype(np.float64)
    difference = decay / 2 * ((weights + STEP) ** 2 - (weights - STEP) ** 2) / (2 * STEP)
    penalty = layout.zeros()
    for name, slot in layout.slots.items():
        places = layout.indices(name)
        penalty[places] = difference[places] if slot.parameter.decays else 0.0
    without = optimizer.model_copy(update={"weight_decay": 0.0})
    # At this rate a step of decay is as large as the weight, so that no digits are lost in the difference of the two.
    rate = 1 / decay
    ours, theirs = (
        layout.unpack(_step(network, *how, rate) / rate) for how in ((optimizer, layout.zeros()), (without, penalty))
    )
    largest = max(float(np.abs(weights).max()), STEP)
    floor = 4 * float(np.finfo(layout.dtype).eps) * decay * largest**2 / STEP / tolerance
    report = TensorReport("penalty", (layout.count,), layout.count, compared=layout.count)
    for name in layout.names:
        a, n = ours[name], theirs[name]
        size = np.maximum(np.abs(a), np.abs(n))
        errors = np.abs(a - n) / np.maximum(size, floor)
        report.failed += int((~(errors <= tolerance)).sum())
        report.count(a, tolerance * np.maximum(np.abs(a), floor))
        worst = np.unravel_index(int(np.argmax(errors)), errors.shape)
        if report.worst_index is None or not errors[worst] <= report.error:
            report.name = f"penalty of {name}"
            report.worst_index = tuple(int(k) for k in worst)
            report.analytic, report.numeric, report.error = float(a[worst]), float(n[worst]), float(errors[worst])
    return [report]


def _step(network: Network, optimizer: Optimizer, gradients: NDArray[Any], rate: float) -> NDArray[np.float64]:
    """How far a first step moves the parameters downwards; the network keeps its own."""
    layout = network.layout
    weights = layout.zeros()
    weights[:] = network.weights
    site = OptimizerSite(
        weights=weights.reshape(-1, layout.lanes),
        gradients=gradients.reshape(-1, layout.lanes),
        state={name: layout.zeros().reshape(-1, layout.lanes) for name in optimizer.state},
        rate=np.full(1, rate, layout.dtype),
        decayed=layout.decayed // layout.lanes,
    )
    Program([optimizer.bind(site)]).run()
    return network.weights.astype(np.float64) - weights.astype(np.float64)
