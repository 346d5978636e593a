"""What a network that knows nothing of its input would pay: the yardstick for losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from nnjit.losses import Loss

GUESSES: dict[str, tuple[str, Callable[[NDArray[Any]], float]]] = {
    "softmax_cross_entropy": ("the log of the number of classes", lambda t: math.log(t.shape[1])),
    "binary_cross_entropy": ("log 2 for each output", lambda t: t.shape[1] * math.log(2)),
    "half_squared_error": ("the cost of predicting the mean", lambda t: float(t.var(axis=0).sum() / 2)),
    "mean_squared_error": ("the cost of predicting the mean", lambda t: float(t.var(axis=0).mean())),
}
"""By kind of loss: what a guess costs in words, and for targets (N, F) as the loss sees them."""


def guess(loss: Loss, targets: NDArray[Any]) -> tuple[str, float] | None:
    """What guessing costs for targets (N, ...), in words and as a number; None for a loss of which that is not known
    and for targets that all are the same."""
    if loss.kind() not in GUESSES:
        return None
    words, cost = GUESSES[loss.kind()]
    value = cost(targets.reshape(len(targets), -1).astype(float))
    return (words, value) if value > 0 else None
