"""What a network does before its first step and in its first few."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.config import Config
from nnjit.data.dataset import Dataset
from nnjit.doctor.finding import Finding, counted, graded, within
from nnjit.doctor.guess import guess
from nnjit.network import Network
from nnjit.steps import Evaluation, Scaling, TrainingStep
from nnjit.trainer import build_network, epoch_order, metric_for, training_step

SAMPLES = 256
"""Training samples on which losses and units are looked at."""
STEPS = 20
"""Steps of training that are watched."""
LOSS = (0.2, 3.0), (0.0, 20.0)
"""Loss before training as a multiple of guessing: good, and bearable."""
RATIO = (1e-5, 1e-1), (0.0, 1.0)
"""Norm of an update as a share of the norm of the weights: good, and bearable. About 1e-3 is usual."""
RISE = 1.05, 10.0
"""Loss after the first steps as a multiple of that before: a warning, a problem."""
UNMOVED = 0.5
"""Share of a tensor's entries that may stay as they are: inputs that are mostly zero leave many."""
DEAD = 0.5, 0.9
"""Share of relu units that are off for every sample: a warning, a problem. A quarter is usual after the first steps,
and most of these come back."""
FLAT = 0.3, 0.9
"""Share of sigmoid and tanh outputs that are nearly as far out as they go: a warning, a problem."""
RANGES = {"sigmoid": (0.5, 0.5), "tanh": (0.0, 1.0)}
"""Round which number an activation's outputs lie, and how far out they go."""
OUTMOST = 0.98
"""How far out is nearly as far, as a share of the way."""


def examine_first_steps(config: Config, dataset: Dataset) -> Iterator[Finding]:
    """The loss before training, the gradients and updates of the first steps, and the units before and after them."""
    network = build_network(config, dataset.shape)
    step = training_step(network, config, dataset)
    step.feed.order[:] = epoch_order(config, dataset.train.rows, 0)
    some = replace(dataset.train, rows=np.sort(step.feed.order[:SAMPLES]))
    scalings = Scaling(dataset.shift, dataset.factor), Scaling(dataset.target_shift, dataset.target_factor)
    # Every layer apart, so that units are seen before they are pooled; with the same weights.
    apart = Network(config.model, dataset.shape, network.dtype, config.seed, fused=False)
    apart.weights = network.weights
    evaluation = Evaluation(apart, config.loss, metric_for(config, dataset.classes), some, *scalings)

    loss = evaluation.run()["loss"]
    yield _loss_at_start(config, dataset, evaluation, loss)
    units = _units(evaluation)
    watched = _watch(step)
    yield _course(config, watched, loss, evaluation.run()["loss"])
    yield _gradients(network, watched)
    yield _updates(network, watched).unless_few(len(dataset.train))
    yield _ratios(config, network, watched)
    yield from _compare(units, _units(evaluation), len(some), watched.steps)


def _loss_at_start(config: Config, dataset: Dataset, evaluation: Evaluation, loss: float) -> Finding:
    check, samples = "loss at the start", len(evaluation.feed.rows)
    expected = guess(config.loss, evaluation.site.target.read(samples))
    reason = f"{loss:.4g} on {counted(samples, 'sample')}"
    smaller = "a smaller weight_init in the last layer, or smaller inputs (data.standardize, data.divide)"
    if expected is None or not np.isfinite(loss):
        return Finding(check, "ok", reason) if np.isfinite(loss) else Finding(check, "problem", reason, smaller)
    words, value = expected
    reason += f", where guessing gives {value:.4g}: {words}"
    verdict = within(loss / value, *LOSS)
    if verdict == "ok":
        return Finding(check, verdict, reason)
    if loss < value:
        return Finding(check, verdict, reason, "check that the inputs do not hold the targets")
    unscaled = dataset.classes is None and not config.data.standardize_targets
    return Finding(check, verdict, reason, "set data.standardize_targets: true" if unscaled else smaller)


@dataclass
class _Watched:
    """The first steps of a training: arrays in the layout of the parameters, and what was measured at each step."""

    steps: int
    """Steps that were taken; fewer than STEPS if the loss stopped being finite."""
    largest: NDArray[Any]
    """Largest gradient of each entry."""
    moved: NDArray[np.bool_]
    """Whether an entry has changed."""
    ratios: dict[str, list[float]]
    """Norm of each update of a weight as a share of the weight's own; not of biases, which begin at zero."""


def _watch(step: TrainingStep) -> _Watched:
    """Train for a few steps."""
    network, gradients = step.bound.network, step.bound.gradients
    assert gradients is not None
    layout, weights = network.layout, network.weights
    first = weights.copy()
    weighty = [name for name in layout.names if layout.slots[name].parameter.decays]
    watched = _Watched(0, np.zeros_like(weights), np.zeros(weights.shape, bool), {name: [] for name in weighty})
    while watched.steps < STEPS:
        before = weights.copy()
        cost = step.run(watched.steps % step.batches)
        if not np.isfinite(cost):
            break
        watched.steps += 1
        np.maximum(watched.largest, np.abs(gradients), out=watched.largest)
        for name, ratios in watched.ratios.items():
            old = layout.stored(before, name).astype(np.float64)
            size = np.linalg.norm(old)
            ratios.append(float(np.linalg.norm(layout.stored(weights, name) - old) / size) if size else np.inf)
    watched.moved = weights != first
    return watched


def _course(config: Config, watched: _Watched, before: float, after: float) -> Finding:
    check, rate = "first steps", config.optimizer.learning_rate
    if watched.steps < STEPS:
        reason = f"the loss stops being finite in step {watched.steps + 1}"
        return Finding(check, "problem", reason, f"an optimizer.learning_rate below {rate}")
    reason = f"the loss goes from {before:.4g} to {after:.4g} in {STEPS} steps"
    verdict = graded(after / before, *RISE) if before else "ok"
    return Finding(check, verdict, reason, "" if verdict == "ok" else f"an optimizer.learning_rate below {rate}")


def _gradients(network: Network, watched: _Watched) -> Finding:
    """Whether the gradient reaches every tensor."""
    check, names = "gradients", network.layout.names
    if not watched.steps:
        return Finding(check, "problem", "no step was possible", "see the first steps")
    without = [name for name in names if not watched.largest[network.layout.indices(name)].any()]
    if without:
        reason = f"zero in {counted(watched.steps, 'step')} for {', '.join(without)}"
        remedy = "look at the units after them: all may be off or flat, or their weights zero"
        return Finding(check, "problem", reason, remedy)
    return Finding(check, "ok", f"reach all {len(names)} parameter tensors in {counted(watched.steps, 'step')}")


def _updates(network: Network, watched: _Watched) -> Finding:
    """Whether the entries of every tensor move: some get no gradient, for others a step is too small to change them."""
    check, layout = "updates", network.layout
    if not layout.names:
        return Finding(check, "problem", "the network has no parameters", "add a dense or conv2d layer to the model")
    shares, lost = {}, {}
    for name in layout.names:
        indices = layout.indices(name)
        still = ~watched.moved[indices]
        shares[name] = float(still.mean())
        lost[name] = float((still & (watched.largest[indices] > 0)).mean())
    name = max(shares, key=lambda name: shares[name])
    steps = counted(watched.steps, "step")
    reason = f"{shares[name]:.0%} of the entries of {name} stay as they are in {steps}, the most of all"
    if lost[name] > UNMOVED:
        reason += f", {lost[name]:.0%} though they have a gradient"
        return Finding(check, "problem", reason, "a larger optimizer.learning_rate: rounding swallows these updates")
    if shares[name] > UNMOVED:
        return Finding(check, "warning", reason, "look at constant inputs, dead units and few samples")
    return Finding(check, "ok", reason)


def _ratios(config: Config, network: Network, watched: _Watched) -> Finding:
    """The tensor whose median ratio of update to weights is farthest from what is usual."""
    check, rate = "update to weight", config.optimizer.learning_rate
    medians = {name: float(np.median(ratios)) for name, ratios in watched.ratios.items() if ratios}
    if not medians:
        return Finding(check, "ok", "no weights to measure")
    ordered = sorted(medians, key=lambda name: medians[name])
    low, high = medians[ordered[0]], medians[ordered[-1]]
    reason = (
        f"median update of {low:.1e} ({ordered[0]}) to {high:.1e} ({ordered[-1]}) times the weights in "
        f"{counted(watched.steps, 'step')}; about 1e-4 to 1e-2 is usual"
    )
    above = within(high, *RATIO)
    if above != "ok" and high > RATIO[0][1]:
        return Finding(check, above, reason, f"an optimizer.learning_rate below {rate}, or a larger weight_init")
    below = within(low, *RATIO)
    if below != "ok":
        return Finding(check, below, reason, f"an optimizer.learning_rate above {rate}, or a smaller weight_init")
    return Finding(check, "ok", reason)


class _Units(NamedTuple):
    """How many outputs of an activation do not respond."""

    check: str
    share: float
    bounds: tuple[float, float]
    reason: str
    remedy: str
    """If it is so at the start; what the first steps did is the learning rate's fault."""


def _units(evaluation: Evaluation) -> dict[str, _Units]:
    """The activations of the batch that was evaluated last, by their place in the config."""
    found = {}
    samples = len(evaluation.feed.rows)
    stages = evaluation.bound.network.stages
    for stage, site in zip(stages, evaluation.bound.sites, strict=True):
        kind = stage.activation or stage.layer.activation
        place = f"model[{stage.position + (stage.activation != '')}].{kind}"
        if kind == "relu":
            found[place] = _dead(site.out.read(samples))
        elif kind in RANGES:
            targets = evaluation.site.target.read(samples) if stage is stages[-1] else None
            found[place] = _flat(site.out.read(samples), *RANGES[kind], targets)
    return found


def _dead(out: NDArray[Any]) -> _Units:
    """Of relu: a unit is an output, or a map of an image."""
    off = ~(out > 0).any(axis=(0, *range(2, out.ndim)))
    remedy = "a larger bias_init, another weight_init, or scaled inputs"
    return _Units("dead units", float(off.mean()), DEAD, f"{int(off.sum())} of {off.size} units are zero", remedy)


def _flat(out: NDArray[Any], centre: float, reach: float, targets: NDArray[Any] | None) -> _Units:
    """Of sigmoid and tanh. Outputs of the network itself, which have `targets`, may be far out on the right side."""
    far = np.abs(out - centre) > OUTMOST * reach
    where = ""
    if targets is not None:
        far &= np.abs(out - targets) > reach
        where = " on the wrong side"
    share = float(far.mean())
    remedy = "weight_init: glorot_normal, or scaled inputs"
    return _Units("saturated units", share, FLAT, f"{share:.0%} of the outputs are saturated{where}", remedy)


def _compare(before: dict[str, _Units], after: dict[str, _Units], samples: int, steps: int) -> Iterator[Finding]:
    """The worse of two looks at each activation: dead at the start, or killed by the first steps."""
    for place, start in before.items():
        end, dead = after[place], start.check == "dead units"
        if start.share >= end.share:
            worse, when, remedy = start, "at the start", start.remedy
        else:
            worse, when, remedy = end, f"after {counted(steps, 'step')}", "a smaller optimizer.learning_rate"
        verdict = graded(worse.share, *worse.bounds)
        every = "all " if dead and samples > 1 else ""
        reason = f"{place}: {worse.reason} for {every}{counted(samples, 'sample')} {when}"
        finding = Finding(worse.check, verdict, reason, "" if verdict == "ok" else remedy)
        yield finding.unless_few(samples) if dead else finding
