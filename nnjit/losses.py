"""Cost functions: the mean over the samples of a batch of what each file of this family says about one sample."""

from __future__ import annotations

from typing import Literal

from nnjit.component import Component


class Loss(Component):
    """A cost of one sample's output against its target."""


class HalfSquaredError(Loss):
    """C = 1/2 * sum over f of (out[f] - target[f])**2; class labels count as one-hot vectors."""

    type: Literal["half_squared_error"] = "half_squared_error"


class MeanSquaredError(Loss):
    """C = mean over f of (out[f] - target[f])**2; class labels count as one-hot vectors."""

    type: Literal["mean_squared_error"] = "mean_squared_error"


class SoftmaxCrossEntropy(Loss):
    """C = -log softmax(out)[label], from logits: the network ends in a dense layer without softmax."""

    type: Literal["softmax_cross_entropy"] = "softmax_cross_entropy"


class BinaryCrossEntropy(Loss):
    """C = -sum over f of t*log(s) + (1-t)*log(1-s), s = sigmoid(out[f]), from logits; class labels count as one-hot vectors,
    or as 0 and 1 for a network with one output."""

    type: Literal["binary_cross_entropy"] = "binary_cross_entropy"
