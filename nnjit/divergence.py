"""Where a run that diverged first went wrong: which numbers of which step stopped being finite, for which samples.

Training keeps no norms, so that being able to tell costs a step nothing. A run is a function of config, data and seed:
the steps since the last checkpoint are taken again, bit for bit, and this time each one is looked at. That takes about
twice as long as those steps did; `train.checkpoint_every` bounds it.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.checkpoint import write_atomically
from nnjit.errors import DivergedError, NnjitError
from nnjit.stages import Stage
from nnjit.steps import Scored, TrainingStep
from nnjit.stopping import StopRequest

if TYPE_CHECKING:
    from nnjit.trainer import Trainer

HISTORY = 10
"""Steps whose norms are reported: the last one is that of the first trace."""
SHOWN = 8
"""Rows that a message lists; the report has all."""
SMALLER = 10
"""What the learning rate is divided by in the command that goes on."""


class Values(NamedTuple):
    """Numbers of a step, under the name that messages give them."""

    name: str
    numbers: NDArray[Any]
    per_sample: bool
    """Whether the first axis is that of the samples; if not, every sample had a part in every number."""


@dataclass(frozen=True)
class Trace:
    """The first numbers that were not finite, in the order in which they are computed."""

    what: str
    step: int | None
    """Counted from 1 over the whole run; None for what the last checkpoint holds."""
    entries: int
    not_finite: int
    split: str
    """Of `data`, in the file of which the rows are."""
    rows: list[int]
    """The samples that they belong to, counted from 0 in the file."""


@dataclass(frozen=True)
class Norms:
    """How large things were in one step; norms are Euclidean, by parameter."""

    step: int
    loss: float
    gradients: dict[str, float]
    weights: dict[str, float]
    """After the update."""


def diagnose(trainer: Trainer, event: str, step: int, stop: StopRequest) -> DivergedError:
    """The error for a run that `event` ended in step `step`, after its report is written to the run folder.

    A signal to `stop` ends the search for the first trace.
    """
    rate, folder = trainer.progress.learning_rates[-1][1], trainer.folder
    history: deque[Norms] = deque(maxlen=HISTORY)
    first = _search(trainer, step, stop, history)
    spoilt = first is not None and first.step is None
    go_on = None if spoilt else f"{folder.resume_command} --set optimizer.learning_rate={rate / SMALLER:.4g}"
    report = {
        "event": event,
        "step": step,
        "learning_rate": rate,
        "first": first and asdict(first),
        "history": [asdict(norms) for norms in history],
        "go_on": go_on,
    }
    lines = [f"{event} at {_place(trainer, step)} with learning rate {rate}"]
    if first is not None:
        lines.append(f"first trace: {_sentence(trainer, first)}")
    elif stop.signal is not None:
        lines.append("first trace: not known, the search for it was stopped")
    else:
        lines.append("first trace: none when the same steps were taken again; this machine, or nnjit, is at fault")
    lines += _table(history)
    try:
        write_atomically(folder.divergence, (json.dumps(_strict(report), indent=1) + "\n").encode())
        lines.append(f"all of this in numbers: {folder.divergence}")
    except NnjitError as error:
        lines.append(str(error))
    if go_on is None:
        lines.append(f"{folder.last} is no state to go on from; begin a new run")
    else:
        lines += [f"{folder.last} is the last good checkpoint; to go on from it in smaller steps:", f"  {go_on}"]
    return DivergedError("\n".join(lines))


def _search(trainer: Trainer, step: int, stop: StopRequest, history: deque[Norms]) -> Trace | None:
    """The first trace in the steps from the last checkpoint up to `step` and in the validation after them; adds the
    norms of each step to `history`."""
    trainer.keep_gradients()
    training = trainer.step
    trainer.go_back()
    found = _first_in(_parameters(training, f"{{}} in {trainer.folder.last}"))
    if found is not None:
        return _trace(trainer, training, "train", None, found)
    for cost in trainer.repeat(step):
        number = trainer.progress.step
        history.append(_norms(training, number, cost))
        state = (trainer.network.weights, *training.state.values())
        if not (math.isfinite(cost) and all(np.isfinite(array).all() for array in state)):
            found = _first_in(_forward(training), _backward(training), _parameters(training, "{} after the update"))
            if found is not None:
                return _trace(trainer, training, "train", number, found)
        if stop.signal is not None:
            return None
    if trainer.validation and trainer.progress.batch == training.batches:
        for cost in trainer.validation.costs():
            if not math.isfinite(cost) and (found := _first_in(_forward(trainer.validation))):
                return _trace(trainer, trainer.validation, "validation", step, found)
    return None


def _forward(scored: Scored) -> Iterator[Values]:
    """What the forward pass over the selected batch left, from the input to the costs."""
    bound, count = scored.bound, len(scored.feed.rows)
    yield Values("the scaled input", bound.x.read(count), True)
    for stage, site in zip(bound.network.stages, bound.sites, strict=True):
        yield Values(f"the output of {_name(stage)}", site.out.read(count), True)
    yield Values("the loss", scored.site.costs.reshape(-1)[:count], True)


def _backward(training: TrainingStep) -> Iterator[Values]:
    """What the backward pass left, from the last layer to the first."""
    bound, count = training.bound, len(training.feed.rows)
    assert bound.gradients is not None
    layout = bound.network.layout
    for stage, site in zip(reversed(bound.network.stages), reversed(bound.sites), strict=True):
        if site.dout is not None:
            where = "before the pooling" if stage.pooling else "at the output"
            yield Values(f"the gradient {where} of {_name(stage)}", site.dout.read(count), True)
        for short in site.gradients:
            name = f"layers.{stage.position}.{short}"
            yield Values(f"the gradient of {name}", bound.gradients[layout.indices(name)], False)


def _parameters(training: TrainingStep, phrase: str) -> Iterator[Values]:
    """The optimizer's arrays and the parameters, in the order in which the update makes them."""
    network = training.bound.network
    layout = network.layout
    for array, flat in training.state.items():
        for name in layout.names:
            yield Values(phrase.format(f"the {array} of {name}"), flat[layout.indices(name)], False)
    for name in layout.names:
        yield Values(phrase.format(name), network.weights[layout.indices(name)], False)


def _first_in(*passes: Iterator[Values]) -> Values | None:
    """The first values that are not all finite."""
    return next((values for each in passes for values in each if not np.isfinite(values.numbers).all()), None)


def _trace(trainer: Trainer, scored: Scored, split: str, step: int | None, values: Values) -> Trace:
    wrong = ~np.isfinite(values.numbers)
    rows = scored.feed.rows
    if step is None:
        rows = rows[:0]
    elif values.per_sample:
        rows = rows[wrong.reshape(len(rows), -1).any(axis=1)]
    split, start = trainer.config.data.origin(split)
    return Trace(values.name, step, wrong.size, int(wrong.sum()), split, (np.sort(rows) + start).tolist())


def _norms(training: TrainingStep, number: int, cost: float) -> Norms:
    bound = training.bound
    layout = bound.network.layout

    def of(flat: NDArray[Any] | None) -> dict[str, float]:
        assert flat is not None
        return {name: _norm(flat[layout.indices(name)]) for name in layout.names}

    return Norms(number, cost / len(training.feed.rows), of(bound.gradients), of(bound.network.weights))


def _norm(numbers: NDArray[Any]) -> float:
    """The Euclidean norm, which overflows only where it is itself too large for float64."""
    largest = float(np.abs(numbers).max())
    if largest == 0 or not math.isfinite(largest):
        return largest
    # By the largest, so that no square overflows or vanishes: float64 networks reach what float64 cannot square.
    return largest * float(np.linalg.norm(numbers.astype(np.float64) / largest))


def _name(stage: Stage) -> str:
    """A layer as messages write it, with the activation and the pooling that it applies itself."""
    kind, *applied = stage.kinds
    return f"model[{stage.position}].{kind}" + (f" with {' and '.join(applied)}" if applied else "")


def _place(trainer: Trainer, step: int) -> str:
    epoch, batch = divmod(step - 1, trainer.step.batches)
    return f"step {step} (epoch {epoch + 1}, batch {batch + 1})"


def _sentence(trainer: Trainer, trace: Trace) -> str:
    counted = f"{trace.what}, {trace.not_finite} of {trace.entries} numbers not finite"
    if trace.step is None:
        return counted
    shown = ", ".join(map(str, trace.rows[:SHOWN]))
    more = f" and {len(trace.rows) - SHOWN} more" if len(trace.rows) > SHOWN else ""
    rows = f"row{'' if len(trace.rows) == 1 else 's'} {shown}{more} of data.{trace.split} (from 0)"
    return f"{_place(trainer, trace.step)}, {counted}, for {rows}"


def _table(history: Sequence[Norms]) -> list[str]:
    """Loss and norms over all parameters, and the tensor with the largest gradient, a line per step."""
    rows = [["step", "loss", "gradients", "weights", "largest gradient"]]
    for norms in history:
        total = (math.hypot(*of.values()) for of in (norms.gradients, norms.weights))
        # The first that is not finite, or else the largest.
        worst = max(norms.gradients, key=lambda name: math.inf if math.isnan(n := norms.gradients[name]) else n)
        rows.append([str(norms.step), *(f"{value:.4g}" for value in (norms.loss, *total)), worst])
    return ["  " + "  ".join([*(cell.rjust(9) for cell in row), last]) for *row, last in rows] if history else []


def _strict(value: Any) -> Any:
    """`value` as JSON can hold it: numbers that are not finite as text."""
    if isinstance(value, dict):
        return {name: _strict(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_strict(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
