"""nnjit's kernels against PyTorch: every case of the gradient checker, a network with many layers and its steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from battery import DTYPES, layers_of, loss_of, relative_error, require_all

from nnjit.data.dataset import Split
from nnjit.gradcheck import Probe
from nnjit.gradcheck.against import against
from nnjit.gradcheck.cases import Case, cases
from nnjit.gradcheck.faults import one_percent
from nnjit.gradcheck.torch_peer import Torch
from nnjit.layers import Layer
from nnjit.losses import Loss
from nnjit.metrics import Accuracy
from nnjit.network import Network
from nnjit.optimizers import Sgd
from nnjit.steps import Scaling, TrainingStep

torch = pytest.importorskip("torch", reason="PyTorch is not installed; `pip install nnjit[peers]` installs it")

pytestmark = pytest.mark.peers

PEER = Torch()
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}


def test_every_kind_is_compared() -> None:
    require_all("peer", Layer.kinds(), PEER.layers)
    require_all("peer", Loss.kinds(), PEER.losses)


@DTYPES
@pytest.mark.parametrize("number", range(len(list(cases(np.float64)))))
def test_case(number: int, dtype: Any) -> None:
    case: Case = list(cases(dtype))[number]
    comparison = against(case.probe(dtype, 0), PEER, case.title, TOLERANCE[dtype])
    assert comparison.passed and not comparison.skipped, comparison


LENET = layers_of(
    {"conv2d": {"filters": 6, "kernel": 5, "padding": "same"}},
    "relu",
    {"max_pool": 2},
    {"conv2d": {"filters": 16, "kernel": 5}},
    "relu",
    {"max_pool": 2},
    "flatten",
    {"dense": 20},
    "tanh",
    {"dense": 10},
)


def lenet_probe(dtype: Any) -> Probe:
    """19 samples: two blocks of lanes, the second of which is not full."""
    rng = np.random.default_rng(1)
    inputs, labels = rng.standard_normal((19, 1, 14, 14)), rng.integers(0, 10, 19)
    return Probe(Network(LENET, (1, 14, 14), dtype, 1), loss_of("softmax_cross_entropy"), inputs, labels)


@DTYPES
def test_a_convolutional_network(dtype: Any) -> None:
    comparison = against(lenet_probe(dtype), PEER, tolerance=10 * TOLERANCE[dtype])
    assert comparison.passed and len(comparison.rows) == 15, comparison


def test_a_fault_is_seen() -> None:
    probe = lenet_probe(np.float64)
    assert one_percent(probe)
    assert [row.name for row in against(probe, PEER).rows if not row.passed] == ["layers.0.weight gradient"]


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_of_training(nesterov: bool) -> None:
    """Thirty steps with momentum and weight decay end at the same weights."""
    rng = np.random.default_rng(1)
    inputs, labels = rng.standard_normal((19, 1, 14, 14)), rng.integers(0, 10, 19).astype(np.int32)
    settings = {"momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov}
    network = Network(LENET, (1, 14, 14), np.float64, seed=1)
    before = network.layout.unpack(network.weights)
    plain = Scaling(np.zeros(1), np.ones(1))
    loss, rule = loss_of("softmax_cross_entropy"), Sgd(learning_rate=0.02, **settings)
    split = Split(inputs, labels, np.arange(19))
    step = TrainingStep(network, 19, loss, Accuracy(0.5), rule, split, plain, plain)

    peers = {name: torch.tensor(array, requires_grad=True) for name, array in before.items()}
    weights, biases = ([peers[name] for name in peers if name.endswith(end)] for end in ("weight", "bias"))
    # As in nnjit, biases do not decay.
    peer = torch.optim.SGD([{"params": weights}, {"params": biases, "weight_decay": 0}], lr=0.02, **settings)
    for _ in range(30):
        cost = step.run(0) / 19
        peer.zero_grad()
        outputs = PEER.forward(LENET, peers, torch.tensor(inputs))
        peer_cost = PEER.losses[loss.kind()](outputs[-1], torch.tensor(labels).long())
        peer_cost.backward()
        peer.step()
        assert cost == pytest.approx(peer_cost.item(), rel=1e-9)
    for name, array in network.layout.unpack(network.weights).items():
        assert relative_error(array, peers[name].detach().numpy()) < 1e-9, name
        assert np.abs(array - before[name]).max() > 1e-3, name
