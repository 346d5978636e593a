"""What an explanation says: a network's forward and backward pass for one sample, as a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnjit.equations import Equation, Equations
from nnjit.errors import ConfigError
from nnjit.explain.document import Block, Display, Document, Heading, Paragraph, Table, text
from nnjit.explain.evaluate import Defined, filled_in, value_at
from nnjit.explain.figures import figure
from nnjit.explain.formula import Formula, Names, Symbol, substitute
from nnjit.explain.numbers import entry_at, numbers
from nnjit.explain.passes import TOLERANCE, Array, Passes
from nnjit.explain.subject import Subject
from nnjit.gradcheck.check import relative_error

ALL_ENTRIES, LARGEST, DRAWN = 16, 5, 3
"""A gradient of up to so many entries is confirmed in full; of larger ones, so many of the largest and of all."""
FORMULA_FLOOR = 1e-9
"""Two numbers below it count as equal: a formula's plain sums round otherwise than the kernels' do. Where rounding is
measured to move a gradient by more, the floor is as much higher."""
LETTERS = {"weight": "w", "bias": "b"}


@dataclass
class Checks:
    """How the gradients that were shown compare with their formulas and with differences of the cost."""

    entries: int = 0
    one_sided: int = 0
    kinks: int = 0
    wrong: int = 0
    formula_error: float = 0.0
    difference_error: float = 0.0


def explain(subject: Subject, sample: int, layer: int | None) -> tuple[Document, Checks]:
    """The explanation of a network for one sample of its split, of all layers or of one, and its checks.

    Raises ConfigError for a layer, loss or optimizer without equations, DivergedError for a loss that is not finite.
    """
    writer = _Writer(subject, Passes(subject, sample), sample)
    document = list(writer.write(layer))
    return document, writer.checks


class _Writer:
    def __init__(self, subject: Subject, passes: Passes, sample: int) -> None:
        self.subject, self.config, self.passes, self.sample = subject, subject.config, passes, sample
        self.shapes = passes.network.shapes
        self.layers = passes.network.layers
        self.checks = Checks()
        self.equations = [
            self._equations(layer.equations(shape), ("model", k))
            for k, (layer, shape) in enumerate(zip(self.layers, self.shapes, strict=False))
        ]
        self.environments = [self._environment(k) for k in range(len(self.layers))]

    def write(self, layer: int | None) -> Iterator[Block]:
        yield from self._introduction()
        chosen = range(len(self.layers)) if layer is None else [layer]
        yield Heading(2, "Forward")
        for position in chosen:
            yield from self._forward(position)
        if layer is None:
            yield from self._cost()
        yield Heading(2, "Backward")
        if layer is None:
            yield from self._cost_backward()
        for position in reversed(chosen):
            yield from self._backward(position, alone=layer is not None)
        yield from self._step(chosen)
        yield from self._conclusion()

    def _introduction(self) -> Iterator[Block]:
        yield Heading(1, f"{self.subject.name}, explained")
        label = "" if self.passes.label is None else f", of class {self.passes.label}"
        split = {"train": "training"}.get(self.subject.split_name, self.subject.split_name)
        yield Paragraph(
            (
                f"Sample {self.sample} of the {split} split{label}, with the parameters {self.subject.origin}. "
                "All numbers are those of nnjit's own kernels in float64. Indices count from 0.",
            )
        )
        names = {"z": Symbol("z"), "dz": Symbol("z", derivative=True)}
        yield Paragraph(
            text(
                "$x$ is the network's input. The number above a letter is that of the layer: $z$ is the output of a "
                "layer with parameters, $a$ that of another. $C$ is the cost, and $dz$ its derivative with respect to "
                "$z$. Square brackets round a comparison are 1 where it holds and 0 elsewhere. Where a sum is worked "
                "out with numbers, terms that are 0 are left out.",
                names,
            )
        )
        apart = self.passes.fused_difference
        same = f"are, to within {figure(apart)}, those" if apart else "are, to the last bit, those"
        yield Paragraph(
            (
                "In training a layer applies the activation that follows it, in one pass; here every layer is a stage "
                f"of its own, so that what lies between is seen. The gradients of the parameters {same} of the network "
                "as training runs it.",
            )
        )
        rows = [
            (f"{k}: {layer.kind()}", _by(before), _by(after), f"{self._count(k):,}")
            for k, (layer, before, after) in enumerate(zip(self.layers, self.shapes, self.shapes[1:], strict=False))
        ]
        yield Table(("layer", "input", "output", "parameters"), rows)

    def _forward(self, position: int) -> Iterator[Block]:
        names, environment = self._names(position), self.environments[position]
        equations = self.equations[position]
        yield self._title(position)
        before, after = (_by(shape) for shape in self.shapes[position : position + 2])
        yield Paragraph((f"From {before} to {after}. ", *text(equations.size, names)))
        if position == 0:
            yield from numbers("x", self.passes.outputs[0], names)
        for parameter in self.layers[position].parameters(self.shapes[position]):
            yield from numbers(parameter.name, environment[parameter.name], names)
        yield from self._each(equations.forward, environment, names)

    def _cost(self) -> Iterator[Block]:
        names, environment = self._loss_names(), self._loss_environment()
        yield Heading(3, f"Loss: {self.config.loss.kind()}")
        yield from numbers("target", self.passes.target, names)
        yield from self._each(self._loss_equations().forward, environment, names)
        label, answer = self.passes.label, self.passes.answer
        if answer is not None:
            verdict = "and so it is" if answer == label else f"but it is of class {label}"
            yield Paragraph((f"The network takes the sample for one of class {answer}, {verdict}.",))

    def _cost_backward(self) -> Iterator[Block]:
        names, environment = self._loss_names(), self._loss_environment()
        equations = self._loss_equations()
        for equation in equations.forward:
            self._define(equation, Formula.parse(equation.text, names), environment)
        yield Heading(3, f"Loss: {self.config.loss.kind()}")
        yield from self._each(equations.backward, environment, names, {"dout": "output"})

    def _backward(self, position: int, alone: bool) -> Iterator[Block]:
        names, environment = self._names(position), self.environments[position]
        yield self._title(position)
        if alone:
            yield Paragraph(("The layers after it, or the loss, give the gradient of its output.",))
            yield from numbers("dout", environment["dout"], names)
        parameters = self.layers[position].parameters(self.shapes[position])
        tensors = {f"d{parameter.name}": f"layers.{position}.{parameter.name}" for parameter in parameters}
        tensors["dx"] = f"layers.{position}.input"
        yield from self._each(self.equations[position].backward, environment, names, tensors)
        if not alone:
            yield from self._in_one(position)

    def _in_one(self, position: int) -> Iterator[Block]:
        """What an activation after a layer with parameters passes back, with what the next layer with parameters, or
        the loss, gives it: the rule by which books go from one δ to that of the layer before."""
        layer, after = self.layers[position], position + 1
        if not layer.activation or self._symbol(position).letter != "z":
            return
        if after == len(self.layers):
            found, names = self._loss_equations().backward[-1], self._loss_names()
        elif self._count(after):
            backward = self.equations[after].backward
            found = next(item for item in backward if Formula.parse(item.text, {}).array == "dx")
            names = self._names(after)
        else:
            return
        outer = Formula.parse(self.equations[position].backward[-1].text, self._names(position))
        formula = substitute(outer, "dout", Formula.parse(found.text, names))
        giver = "the loss" if after == len(self.layers) else f"layer {after}"
        yield Paragraph((f"With what {giver} gives it, in one formula:",))
        yield Display(formula, _ranges(formula, self.shapes[position]))

    def _each(
        self,
        equations: Sequence[Equation],
        environment: dict[str, Any],
        names: Names,
        tensors: dict[str, str] = {},  # noqa: B006
    ) -> Iterator[Block]:
        """Each formula with its numbers; `tensors`: what a gradient that is to be confirmed is the gradient of."""
        for equation in equations:
            formula = Formula.parse(equation.text, names)
            self._define(equation, formula, environment)
            array = environment[formula.array]
            if equation.says:
                yield Paragraph(text(equation.says, names))
            yield Display(formula, _ranges(formula, array.shape))
            if array.shape:
                yield from numbers(formula.array, array, names)
            if isinstance(array, Defined):
                if array.shape:
                    continue
                worked = filled_in(formula, (), environment)
            else:
                worked = filled_in(formula, _telling(array), environment)
            if len(worked.sides) > 2:
                yield Display(worked)
            if formula.array in tensors:
                yield self._confirmed(formula, array, environment, tensors[formula.array])

    def _define(self, equation: Equation, formula: Formula, environment: dict[str, Any]) -> None:
        """Add the array of the formula's own, if it has one, to the environment."""
        if formula.array not in environment:
            assert equation.shape is not None, equation
            environment[formula.array] = Defined(formula, equation.shape, environment)

    def _confirmed(self, formula: Formula, gradient: Array, environment: dict[str, Any], tensor: str) -> Table:
        rows = []
        flat = gradient.reshape(-1)
        for entry in _chosen(flat):
            place = tuple(int(k) for k in np.unravel_index(entry, gradient.shape))
            kernel, written = float(flat[entry]), value_at(formula, place, environment)
            found = self.passes.confirm(tensor, place, kernel)
            apart = relative_error(written, kernel, max(FORMULA_FLOOR, found.rounding / TOLERANCE))
            wrong = found.contradicts or not apart <= TOLERANCE
            self.checks.entries += 1
            self.checks.wrong += wrong
            self.checks.formula_error = _larger(self.checks.formula_error, apart)
            verdict = "WRONG" if wrong else "ok"
            if found.numeric is None or found.error is None:
                self.checks.kinks += 1
                last = ("", "crosses a kink")
            else:
                if found.one_sided:
                    self.checks.one_sided += 1
                    verdict += ", one side"
                self.checks.difference_error = _larger(self.checks.difference_error, found.error)
                last = (figure(found.numeric), f"{found.error:.1e}")
            shown = entry_at(formula.array, place, formula.names)
            rows.append((shown, figure(written), figure(kernel), *last, verdict))
        return Table(("entry", "formula", "kernel", "difference", "relative error", ""), rows)

    def _step(self, chosen: Sequence[int]) -> Iterator[Block]:
        optimizer = self.config.optimizer
        after, cost = self.passes.after_step(optimizer)
        parameters = [(k, p) for k in chosen for p in self.layers[k].parameters(self.shapes[k])]
        if not parameters:
            return
        yield Heading(2, f"One step of {optimizer.kind()}")
        batch = self.config.train.batch_size
        if batch > 1:
            said = f"For this sample alone; training takes the mean of the gradients of a batch of {batch} samples."
            yield Paragraph((said,))
        for position, parameter in parameters:
            names = self._names(position)
            own = names[parameter.name]
            names |= {
                "w": own,
                "dw": Symbol(own.letter, own.layer, True),
                "new": Symbol(f"{own.letter}′", own.layer),
            }
            equations = optimizer.equations(parameter.decays)
            if not equations:
                raise self._missing(("optimizer",), optimizer.kind())
            name = f"layers.{position}.{parameter.name}"
            place = (0,) * len(parameter.shape)
            environment: dict[str, Any] = {
                "w": float(self.passes.parameters[name][place]),
                "dw": float(self.passes.parameter_gradients[name][place]),
            }
            for equation in equations:
                formula = Formula.parse(equation.text, names)
                if equation.says:
                    yield Paragraph(text(equation.says, names))
                yield Display(formula)
                environment[formula.array] = value_at(formula, (), environment)
            _, *worked = filled_in(formula, (), environment).sides
            yield Display(Formula((*entry_at("new", place, names).sides, *worked), names))
            yield from numbers("new", after[name], names)
        if len(chosen) == len(self.layers):
            said = f"With them the cost of this sample goes from {figure(self.passes.cost)} to {figure(cost)}."
            yield Paragraph((said,))

    def _conclusion(self) -> Iterator[Block]:
        checks = self.checks
        yield Heading(2, "Checks")
        kinks = ""
        if checks.one_sided:
            kinks += (
                f" For {checks.one_sided} it is the difference on one side alone: on the other a relu or a maximum "
                "decides otherwise than at the entry."
            )
        if checks.kinks:
            kinks += f" For {checks.kinks} there is no difference: one decides otherwise on both sides."
        verdict = f"{checks.wrong} DISAGREE{'S' * (checks.wrong == 1)}." if checks.wrong else "All agree."
        yield Paragraph(
            (
                f"{checks.entries} derivatives were computed in three ways: by the formula above them, by the kernels, "
                "and as the central difference of the cost, which runs at the entry plus and minus a small step and is "
                f"extrapolated to a step of 0.{kinks} {verdict} The largest relative error is "
                f"{checks.formula_error:.1e} between kernels and formulas, {checks.difference_error:.1e} between "
                f"kernels and differences; up to {TOLERANCE:.0e} passes.",
            )
        )

    def _title(self, position: int) -> Heading:
        return Heading(3, f"Layer {position}: {self.layers[position].kind()}")

    def _equations(self, equations: Equations | None, path: tuple[str | int, ...]) -> Equations:
        if equations is None:
            value = self.layers[int(path[1])] if len(path) > 1 else self.config.loss
            raise self._missing(path, value.kind())
        return equations

    def _missing(self, path: tuple[str | int, ...], kind: str) -> ConfigError:
        return self.subject.refuse(path, f"cannot be explained: {kind} has no equations")

    def _loss_equations(self) -> Equations:
        return self._equations(self.config.loss.equations(self.shapes[-1]), ("loss",))

    def _count(self, position: int) -> int:
        return sum(int(np.prod(p.shape)) for p in self.layers[position].parameters(self.shapes[position]))

    def _environment(self, position: int) -> dict[str, Any]:
        """The arrays of a layer by the names that its formulas have for them."""
        passes = self.passes
        found: dict[str, Any] = {
            "x": passes.outputs[position],
            "out": passes.outputs[position + 1],
            "dx": passes.gradients[position],
            "dout": passes.gradients[position + 1],
        }
        for parameter in self.layers[position].parameters(self.shapes[position]):
            name = f"layers.{position}.{parameter.name}"
            found[parameter.name] = passes.parameters[name]
            found[f"d{parameter.name}"] = passes.parameter_gradients[name]
        return found

    def _loss_environment(self) -> dict[str, Any]:
        passes = self.passes
        return {
            "out": passes.outputs[-1],
            "dout": passes.gradients[-1],
            "target": passes.target,
            "C": np.float64(passes.cost),
        }

    def _names(self, position: int) -> dict[str, Symbol]:
        named = {"x": self._symbol(position), "out": self._symbol(position + 1)}
        for parameter in self.layers[position].parameters(self.shapes[position]):
            named[parameter.name] = Symbol(LETTERS.get(parameter.name, parameter.name), position)
        return _with_derivatives(named)

    def _loss_names(self) -> dict[str, Symbol]:
        return _with_derivatives({"out": self._symbol(len(self.layers)), "target": Symbol("y")})

    def _symbol(self, number: int) -> Symbol:
        """The input, or the output of layer number - 1."""
        if number == 0:
            return Symbol("x")
        return Symbol("z" if self._count(number - 1) else "a", number - 1)


def _with_derivatives(names: dict[str, Symbol]) -> dict[str, Symbol]:
    return names | {f"d{name}": Symbol(symbol.letter, symbol.layer, True) for name, symbol in names.items()}


def _ranges(formula: Formula, shape: tuple[int, ...]) -> str:
    """What the indices on the left side run over."""
    runs = zip(formula.indices, shape, strict=True)
    return ", ".join(f"{index} = 0" + (f"…{size - 1}" if size > 1 else "") for index, size in runs)


def _larger(one: float, two: float) -> float:
    """The larger number; NaN if either is."""
    return float(np.maximum(one, two))


def _telling(array: Array) -> tuple[int, ...]:
    """The first entry, or the largest if the first is 0."""
    first = (0,) * array.ndim
    if not array.ndim or array[first] != 0:
        return first
    return tuple(int(k) for k in np.unravel_index(int(np.abs(array).argmax()), array.shape))


def _chosen(gradient: Array) -> list[int]:
    """The entries of a flat gradient that are confirmed."""
    if gradient.size <= ALL_ENTRIES:
        return list(range(gradient.size))
    size = np.where(np.isnan(gradient), np.inf, np.abs(gradient))  # what is no number is looked at first
    largest = np.argsort(-size, kind="stable")[:LARGEST]
    drawn = np.random.default_rng(0).choice(gradient.size, DRAWN, replace=False)
    return sorted({*largest.tolist(), *drawn.tolist()})


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
