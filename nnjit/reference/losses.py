"""Cost functions: the mean cost of a batch and its gradient with respect to the network's output.

Targets are arrays of the output's shape, or class labels: integers (N,).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.reference.activations import sigmoid_forward, softmax_forward
from nnjit.reference.base import Array, loss_reference


def one_hot(labels: NDArray[np.integer[Any]], classes: int) -> Array:
    """Row n is 1 in column labels[n] and 0 elsewhere.

    labels (N,)  returns (N, F) with F = classes
    """
    rows: Array = np.eye(classes)[labels]
    return rows


def _as_output(target: NDArray[Any], out: Array) -> Array:
    """`target` in the shape of `out`: class labels as one-hot vectors, other targets as they are."""
    if np.issubdtype(target.dtype, np.integer):
        return one_hot(target, out.shape[1])
    return target.reshape(out.shape)


@loss_reference
def half_squared_error(out: Array, target: NDArray[Any]) -> tuple[float, Array]:
    """C = mean over n of 1/2 * sum over f of (out[n,f] - target[n,f])**2;  dout = (out - target) / N

    out (N, ...)  target of out's shape, or labels (N,)  returns C, dout of out's shape
    Source: Nielsen 2015, Neural Networks and Deep Learning, chapter 2, equation 26.
    """
    error = out - _as_output(target, out)
    return float((error**2).sum()) / (2 * len(out)), error / len(out)


@loss_reference
def mean_squared_error(out: Array, target: NDArray[Any]) -> tuple[float, Array]:
    """C = mean over n and f of (out[n,f] - target[n,f])**2;  dout = 2 * (out - target) / (N * F)

    out (N, ...)  target of out's shape, or labels (N,)  returns C, dout of out's shape
    Source: Goodfellow et al. 2016, Deep Learning, equation 5.4.
    """
    error = out - _as_output(target, out)
    return float((error**2).mean()), 2 * error / error.size


@loss_reference
def softmax_cross_entropy(out: Array, target: NDArray[Any]) -> tuple[float, Array]:
    """C = mean over n of -log softmax(out[n])[target[n]];  dout = (softmax(out) - one_hot(target)) / N

    out (N, F), logits  target (N,), labels  returns C, dout (N, F)
    Source: Bishop 2006, Pattern Recognition and Machine Learning, equations 4.108 and 4.109.
    """
    N, F = out.shape
    shifted = out - out.max(axis=1, keepdims=True)  # so that exp cannot overflow
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    cost = -log_probability[np.arange(N), target].mean()
    return float(cost), (softmax_forward(out) - one_hot(target, F)) / N


@loss_reference
def binary_cross_entropy(out: Array, target: NDArray[Any]) -> tuple[float, Array]:
    """C = mean over n of -sum over f of t*log(s) + (1-t)*log(1-s), s = sigmoid(out);  dout = (s - t) / N

    out (N, ...), logits  target t of out's shape, or labels (N,), which are t itself if out is (N, 1)
    returns C, dout of out's shape
    Source: Bishop 2006, Pattern Recognition and Machine Learning, equations 4.90 and 4.91.
    """
    t = target.reshape(out.shape) if out.shape[1] == 1 else _as_output(target, out)
    # log(s) = out - log(1 + exp(out)) and log(1-s) = -log(1 + exp(out)): finite where s rounds to 0 or 1
    cost = np.logaddexp(0.0, out) - t * out
    return float(cost.sum()) / len(out), (sigmoid_forward(out) - t) / len(out)
