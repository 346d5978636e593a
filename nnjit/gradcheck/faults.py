"""Planted faults: the proof that the checker can fail.

Each fault spoils the backward pass of a probe in a way that people do when they write one by hand. The forward pass
stays right, so the check must report the gradients that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnjit.gradcheck.cases import Case, cases
from nnjit.gradcheck.check import Report, Settings, check
from nnjit.gradcheck.probe import Probe
from nnjit.kernels.contraction import Extent
from nnjit.kernels.contraction_channels_weights import contract_channels_weights
from nnjit.kernels.contraction_transposed import contract_transposed
from nnjit.kernels.contraction_weights import contract_lanes
from nnjit.kernels.packing import pack_rows, places_of, spans_of
from nnjit.kernels.pooling import Window
from nnjit.kernels.program import Call
from nnjit.kernels.winograd import winograd_kernels
from nnjit.kernels.winograd_transforms import Form
from nnjit.layers import Layer
from nnjit.losses import Loss


def wrong_sign(probe: Probe) -> bool:
    """The gradient of the first tensor with its sign turned."""
    return _scaled_entries(probe, slice(None), -1.0)


def one_percent(probe: Probe) -> bool:
    """One entry of the first tensor's gradient, the largest, 1 % too large."""
    return _scaled_entries(probe, None, 1.01)


def missing_bias(probe: Probe) -> bool:
    """No gradient for the bias."""
    biases = [site.gradients["bias"] for site in probe.bound.sites if "bias" in site.gradients]
    kept = [
        call for call in probe.backward_calls if not any(part is bias for part in call.arguments for bias in biases)
    ]
    changed = len(kept) < len(probe.backward_calls)
    probe.backward_calls = kept
    return changed


def unrotated_kernel(probe: Probe) -> bool:
    """A convolution's gradient to the input with the kernel as it stands instead of rotated by 180 degrees."""

    def unrotate(call: Call) -> Call | None:
        if call.kernel is winograd_kernels:
            *before, taps, transformed, scratch = call.arguments
            turned = taps.copy()
            for phase in turned:
                phase[phase >= 0] = phase[phase >= 0][::-1]
            return call._replace(arguments=(*before, turned, transformed, scratch))
        if call.kernel is not pack_rows:
            return None
        *before, area, spans, packed = call.arguments
        # Within a filter the places run over the kernel; the reverse order is the rotation.
        places, slots = places_of(spans)
        turned = places - places % area + area - 1 - places % area
        if np.array_equal(turned, places):
            return None
        return call._replace(arguments=(*before, area, spans_of(turned, spans.slots.shape[1], slots), packed))

    return _replaced(probe, unrotate)


def shifted_border(probe: Probe) -> bool:
    """A backward pass that reads or writes the input one position off."""

    def shift(call: Call) -> Call | None:
        if call.kernel in (contract_lanes, contract_transposed):
            after_tiles = next(k for k, argument in enumerate(call.arguments) if isinstance(argument, Extent))
            tiles, (extent, cut, d, x, starts, *others) = call.arguments[:after_tiles], call.arguments[after_tiles:]
            moved = starts + np.tile([d.column, 0], len(starts) // 2)
            narrower = extent._replace(columns=extent.columns - 1)
            return call._replace(arguments=(*tiles, narrower, cut, d, x, moved, *others))
        if call.kernel is contract_channels_weights:
            tile, extent, piece, share, d, x, *others = call.arguments
            narrower, moved = extent._replace(columns=extent.columns - 1), x._replace(start=x.start + x.column)
            return call._replace(arguments=(tile, narrower, piece, share, d, moved, *others))
        for number, argument in enumerate(call.arguments):
            if isinstance(argument, Window):
                wrong = argument._replace(left=argument.left - 1)
                spoilt = (*call.arguments[:number], wrong, *call.arguments[number + 1 :])
                return call._replace(arguments=spoilt)
        return None

    return _replaced(probe, shift)


def forgotten_mean(probe: Probe) -> bool:
    """The gradient of the sum of the samples' costs instead of their mean."""
    dout = probe.bound.dout
    if probe.samples == 1 or dout is None:
        return False

    def scale() -> None:
        dout.view.vectors[:] *= probe.samples

    probe.after_loss.append(scale)
    return True


FAULTS: tuple[Callable[[Probe], bool], ...] = (
    wrong_sign,
    one_percent,
    missing_bias,
    unrotated_kernel,
    shifted_border,
    forgotten_mean,
)
"""Each spoils a probe that has not been compiled yet; False if it has no place in that network."""


@dataclass(frozen=True)
class Trial:
    """One fault in one network, and what the checker said."""

    kind: str
    fault: str
    """Empty for the network as it is."""
    title: str
    report: Report

    @property
    def expected(self) -> bool:
        """Whether the checker passed what is right, or failed what is spoilt."""
        return self.report.passed == (not self.fault)


def self_test(dtype: Any, settings: Settings) -> Iterator[Trial]:
    """Every kind of layer and loss, right and with each fault that has a place in one of its cases, once for every
    set of kernels that the cases' backward passes use."""
    families: list[Any] = [Layer, Loss]
    for kind in (kind for family in families for kind in family.kinds()):
        own = [case for case in cases(dtype) if kind in case.kinds]
        yield Trial(kind, "", own[0].title, check(own[0].probe(dtype, settings.seed), settings))
        for fault in FAULTS:
            for case, probe in _spoilt(own, fault, dtype, settings.seed):
                yield Trial(kind, fault.__name__, case.title, check(probe, settings))


def _spoilt(own: list[Case], fault: Callable[[Probe], bool], dtype: Any, seed: int) -> Iterator[tuple[Case, Probe]]:
    """The first case in which the fault has a place, and those whose backward pass has other kernels or forms of
    Winograd's algorithm."""
    tried: list[set[Any]] = []
    for case in own:
        probe = case.probe(dtype, seed)
        kernels = {
            (call.kernel, *(part for part in call.arguments if isinstance(part, Form))) for call in probe.backward_calls
        }
        if kernels not in tried and fault(probe):
            tried.append(kernels)
            yield case, probe


def _scaled_entries(probe: Probe, entries: slice | None, factor: float) -> bool:
    """Multiply entries of a gradient, the first pass's largest if None."""
    tensors = probe.tensors()
    tensor = next((item for item in tensors if not item.name.endswith("input")), tensors[0])
    chosen = [] if entries is None else [entries]

    def spoil() -> None:
        if not chosen:
            largest = int(np.argmax(np.abs(tensor.gradient[tensor.gradient_places])))
            chosen.append(slice(largest, largest + 1))
        tensor.gradient[tensor.gradient_places[chosen[0]]] *= factor

    probe.after_backward.append(spoil)
    return True


def _replaced(probe: Probe, change: Callable[[Call], Call | None]) -> bool:
    changed = False
    calls = []
    for call in probe.backward_calls:
        other = change(call)
        changed = changed or other is not None
        calls.append(other or call)
    probe.backward_calls = calls
    return changed
