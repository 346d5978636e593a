"""Whether a few samples can be learned by heart: a network that cannot do that will not learn many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nnjit.config import Config
from nnjit.data.dataset import Dataset, Split
from nnjit.doctor.finding import Finding, Verdict, counted
from nnjit.doctor.guess import guess
from nnjit.steps import TrainingStep
from nnjit.trainer import build_network, epoch_order, training_step

SAMPLES = 16
"""Samples to learn, at most."""
STEPS = 1000
"""Steps to learn them in, all samples in each."""
LEARNED = 0.05
"""Share of the loss of guessing that counts as learned."""
PARTLY = 0.5
"""Share of it from which on nothing much was learned: squared errors of saturated outputs may leave a few samples."""
FACTORS = 0.1, 10, 0.01, 100
"""Multiples of the config's learning rate that are tried in turn when that fails."""
USUAL = 0.1, 0.01
"""Learning rates that are tried after those, for one that is far off."""


def learn_few(config: Config, dataset: Dataset) -> Finding:
    """Train the config's network on a few of its samples alone, with its own optimizer."""
    check = "a few samples"
    rows = _different(dataset.train, epoch_order(config, dataset.train.rows, 0))
    count = len(rows)
    train = config.train.model_copy(update={"batch_size": count})
    network = build_network(config, dataset.shape)
    step = training_step(
        network, config.model_copy(update={"train": train}), replace(dataset, train=replace(dataset.train, rows=rows))
    )
    rate = config.optimizer.learning_rate
    start = step.run(0) / count
    known = guess(config.loss, step.site.target.read(count))
    yardstick = known[1] if known else start
    goal = LEARNED * yardstick
    loss, steps = _learn(step, config.seed, rate, goal)
    if loss <= goal:
        reason = f"{counted(count, 'sample')} learned to a loss of {loss:.2g} in {counted(steps, 'step')}"
        return Finding(check, "ok", reason)
    verdict: Verdict = "warning" if loss < PARTLY * yardstick else "problem"
    reason = (
        f"{counted(count, 'sample')} not learned in {counted(steps, 'step')}: the loss is {loss:.4g}, "
        f"expected {goal:.2g} ({LEARNED:.0%} of {'guessing' if known else 'that at the start'})"
    )
    others = [*(float(f"{rate * factor:.3g}") for factor in FACTORS), *USUAL]
    for other in others:
        loss, steps = _learn(step, config.seed, other, goal)
        if loss <= goal:
            reason += f"; learning rate {other} learns them in {steps}"
            if other > rate:
                verdict = "warning"
            return Finding(check, verdict, reason, f"set optimizer.learning_rate: {other}")
    reason += f", nor with learning rates of {', '.join(f'{other:g}' for other in sorted(set(others)))}"
    return Finding(check, verdict, reason, "a larger network, another weight_init, scaled inputs")


def _learn(step: TrainingStep, seed: int, rate: float, goal: float) -> tuple[float, int]:
    """Train from the start until the mean loss is down to `goal`, not finite or STEPS are done; that loss, and the
    steps."""
    network = step.bound.network
    network.weights[:] = network.layout.draw(seed)
    for array in step.state.values():
        array[:] = 0
    step.rate[0] = rate
    loss, steps = np.inf, 0
    while steps < STEPS:
        loss = step.run(0) / len(step.feed.rows)
        steps += 1
        if loss <= goal or not np.isfinite(loss):
            break
    return loss, steps


def _different(split: Split, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of a few samples with different inputs, ascending: of labels, one of each class in turn."""
    assert split.targets is not None
    labels = split.targets.dtype.kind == "i"
    seen: set[bytes] = set()
    turns: dict[int, int] = {}
    found: list[tuple[int, int]] = []
    for row in order.tolist():
        key = split.inputs[row].tobytes()
        if key in seen:
            continue
        seen.add(key)
        label = int(split.targets[row]) if labels else 0
        turns[label] = turns.get(label, 0) + 1
        found.append((turns[label] if labels else 0, row))
        if len(seen) == 64 * SAMPLES:
            break
    found.sort(key=lambda item: item[0])
    return np.sort([row for _, row in found[:SAMPLES]])
