"""Rules that turn a gradient into a step; `KIND_update` belongs to the optimizer of that kind."""

from __future__ import annotations

from nnjit.reference.base import Array


def sgd_update(
    w: Array,
    g: Array,
    v: Array,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> tuple[Array, Array]:
    """d = g + weight_decay * w;  v = momentum * v + d;  w = w - learning_rate * (v, or d + momentum * v)

    The second form of the step is Nesterov's. Weight decay is for weights: leave it at 0 for biases.

    w, g, v of any one shape: a parameter, its gradient, its velocity (0 at first)  returns the next w, v
    Source: Sutskever et al. 2013, On the importance of initialization and momentum in deep learning,
    section 2; v is its velocity divided by -learning_rate and, for Nesterov's form, w its point ahead.
    """
    d = g + weight_decay * w
    v = momentum * v + d
    step = d + momentum * v if nesterov else v
    return w - learning_rate * step, v
