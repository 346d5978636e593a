"""Optimizer steps: one pass over the flat vectors of parameters and gradients.

All arrays are (vectors, L); `rate` is (1,), the step size, which the trainer may change between steps. Weight decay
applies to the first `decayed` vectors: the layout puts weights before biases. A task owns the vectors chunks[task, 0]
to chunks[task, 1] - 1.
"""

from __future__ import annotations

from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import absolute, fma, full, load, store, where


@kernel
def sgd(task, chunks, decayed, w, g, rate, weight_decay):
    """w -= rate * (g + weight_decay * w)

    chunks (tasks, 2) int64  w, g (vectors, L)  rate (1,)  weight_decay (1,)
    """
    step = full(w, -rate[0])
    for k in range(chunks[task, 0], chunks[task, 1]):
        weight = load(w, k)
        gradient = load(g, k)
        if k < decayed:
            gradient = fma(full(w, weight_decay[0]), weight, gradient)
        store(w, k, fma(step, gradient, weight))


SMALLEST = 2.0**-126
"""Velocities below the smallest normal number of float32 count as 0: where gradients have stopped they would shrink to
denormal numbers, over which an operation takes a hundred cycles (784-512-512-10, after 5,000 steps: 1.95 instead of
1.59 ms a step)."""


@kernel
def sgd_momentum(task, chunks, decayed, w, g, velocity, rate, weight_decay, momentum, nesterov):
    """v = momentum * v + g + weight_decay * w;  w -= rate * v, or rate * (g + weight_decay * w + momentum * v) with
    Nesterov

    chunks (tasks, 2) int64  w, g, velocity (vectors, L)  rate, weight_decay, momentum (1,)  nesterov 0 or 1
    Source: Sutskever et al. 2013, ICML, section 2, in the form that takes the gradient at the current weights.
    """
    step = full(w, -rate[0])
    keep = full(w, momentum[0])
    for k in range(chunks[task, 0], chunks[task, 1]):
        weight = load(w, k)
        gradient = load(g, k)
        if k < decayed:
            gradient = fma(full(w, weight_decay[0]), weight, gradient)
        speed = fma(keep, load(velocity, k), gradient)
        speed = where(absolute(speed) < SMALLEST, full(w, 0.0), speed)
        store(velocity, k, speed)
        if nesterov:
            speed = fma(keep, speed, gradient)
        store(w, k, fma(step, speed, weight))
