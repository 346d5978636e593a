"""Training steps and predictions of a config beside PyTorch, in turns in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
from compare_torch import (
    AGREEMENT,
    NNJIT,
    NnjitInference,
    check_agreement,
    losses_of,
    output_difference,
    torch_trainings,
)
from torch_peer import MODES, TorchInference, modes_for

from nnjit.bench.timing import race
from nnjit.bench.workload import bind_workload, measured_data
from nnjit.config import Config, LoadedConfig
from nnjit.errors import CheckFailedError
from nnjit.trainer import build_network

EAGER = tuple(mode for mode in MODES if mode != "torch.compile")
"""PyTorch's modes: compiling takes a minute for each network and batch."""
ROUNDS = 5
"""Turns of each contender."""


class Compared(NamedTuple):
    """A network with one size of batches: the seconds of a step, and of a batch of predictions."""

    name: str
    batch: int
    training: tuple[float, float]
    """nnjit's, and those of PyTorch's better mode."""
    prediction: tuple[float, float]


def ratio(seconds: tuple[float, float]) -> float:
    """PyTorch's time to nnjit's."""
    ours, theirs = seconds
    return theirs / ours


def fastest(contenders: Mapping[str, Callable[[int], object]], seconds: float) -> tuple[float, float]:
    """The median seconds of a run by nnjit and by the fastest of the others, which run for `seconds` each, in turns."""
    times = {name: median(each) for name, each in race(contenders, ROUNDS, seconds / ROUNDS).items()}
    return times.pop(NNJIT), min(times.values())


def compare(name: str, loaded: LoadedConfig, seconds: float) -> Compared:
    """A config called `name`, `seconds` for a contender. Raises CheckFailedError if losses or outputs differ."""
    config = loaded.config
    subject = bind_workload(config, measured_data(loaded))
    modes = [mode for mode in modes_for(subject.network) if mode in EAGER]
    peers = torch_trainings(subject, modes, [])
    ours = losses_of(subject.run)
    for mode, peer in peers.items():
        check_agreement(name, mode, ours, losses_of(peer.run))
    training = fastest({NNJIT: subject.run, **{mode: peer.run for mode, peer in peers.items()}}, seconds)
    return Compared(name, config.train.batch_size, training, predictions(config, modes, seconds))


def predictions(config: Config, modes: Sequence[str], seconds: float) -> tuple[float, float]:
    """The seconds of a batch of predictions, as `fastest` gives them. Raises CheckFailedError if they differ."""
    assert config.data.shape is not None
    network = build_network(config, config.data.shape)
    blocks = np.random.default_rng(0).random((4, config.train.batch_size, *config.data.shape), np.float32)
    ours = NnjitInference(network, blocks)
    outputs = ours.run(0)
    contenders: dict[str, Callable[[int], object]] = {NNJIT: ours.run}
    for mode in modes:
        peer = TorchInference(network, mode, blocks)
        found = output_difference(outputs, peer.run(0))
        if not found <= AGREEMENT:
            raise CheckFailedError(f"expected outputs that agree to {AGREEMENT:g}, got {found:g} ({mode})")
        contenders[mode] = peer.run
    return fastest(contenders, seconds)
