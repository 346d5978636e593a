"""A task writes what no other task of its call writes: the reason why threads change no bit."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from battery import channels, remainders, winograd_of_channels
from numpy.typing import NDArray

from nnjit.kernels.contraction import View
from nnjit.kernels.program import Call, Program, takes_thread
from nnjit.kernels.simd import lanes
from nnjit.layers.activations import Relu, Sigmoid
from nnjit.layers.base import Layer
from nnjit.layers.conv2d import Conv2d
from nnjit.layers.dense import Dense
from nnjit.layers.flatten import Flatten
from nnjit.layers.pooling import AveragePool, MaxPool
from nnjit.network import Network
from nnjit.passes import dense
from nnjit.tuning import machine
from nnjit.tuning.machine import vector_registers

RESULTS = ("out", "dx", "dw", "db", "u")
"""What kernels call the array that they fill, or else SUMS."""
SUMS = ("parts", "bias_parts", "row_parts", "tap_parts")

NETWORKS: dict[str, tuple[list[Layer], tuple[int, ...]]] = {
    "dense": ([Dense(units=37), Relu(), Dense(units=21), Sigmoid(), Dense(units=5)], (29,)),
    "images": (
        [
            Conv2d(filters=7, kernel=(3, 2), stride=(2, 1), padding="same"),
            Relu(),
            MaxPool(window=(2, 2), stride=(1, 1)),
            Conv2d(filters=11, kernel=(3, 3), algorithm="direct"),
            Sigmoid(),
            AveragePool(window=(2, 2)),
            Flatten(),
            Dense(units=3),
        ],
        (5, 13, 11),
    ),
    "pooled": (
        [
            Conv2d(filters=19, kernel=(3, 2), padding="same"),
            Relu(),
            MaxPool(window=(2, 2)),
            Conv2d(filters=7, kernel=(5, 5), padding="same", algorithm="direct"),
            Sigmoid(),
            MaxPool(window=(2, 2)),
            Conv2d(filters=3, kernel=(3, 3), padding="same"),
        ],
        (3, 13, 11),
    ),
    "winograd 3x3": ([Conv2d(filters=19, kernel=(3, 3), padding="same"), Relu()], (17, 11, 12)),
    "winograd pooled": ([Conv2d(filters=19, kernel=(3, 3), padding="same"), MaxPool(window=(2, 2))], (17, 11, 14)),
    "winograd 5x5": ([Conv2d(filters=19, kernel=(5, 5), padding="same"), Relu()], (17, 11, 12)),
    "winograd overlap": ([Conv2d(filters=19, kernel=(3, 3)), Relu()], (17, 10, 10)),
    "winograd strides": ([Conv2d(filters=19, kernel=(6, 6), stride=(2, 2), padding=2), Relu()], (17, 16, 16)),
    "packed": (
        [
            Conv2d(filters=70, kernel=(1, 1)),
            Sigmoid(),
            Conv2d(filters=66, kernel=(1, 2), stride=(1, 2)),
            Conv2d(filters=64, kernel=(2, 2), stride=(2, 2)),
        ],
        (68, 4, 9),
    ),
    "few maps": ([Conv2d(filters=1, kernel=(5, 5), padding="same"), Sigmoid()], (120, 11, 5)),
    "filters in the lanes": ([Conv2d(filters=23, kernel=(2, 2), stride=(2, 2)), Relu()], (17, 8, 10)),
    "channels in the lanes": ([Conv2d(filters=120, kernel=(1, 1), stride=(2, 1)), Relu()], (87, 3, 4)),
}


def written(program: Program, task: int) -> dict[str, NDArray[np.bool_]]:
    """Which entries of the results of a program's only call one task alone fills; nothing for a call that works in
    place."""
    (call,) = program.calls
    kernel = getattr(call.kernel, "py_func", call.kernel)
    first = 2 if takes_thread(call.kernel) else 1
    named = dict(zip(list(inspect.signature(kernel).parameters)[first:], call.arguments, strict=True))
    names = [name for name in RESULTS if name in named][:1] or [name for name in SUMS if name in named]
    names += ["db"] if names == ["dw"] and "db" in named else []
    results = {name: named[name].vectors if isinstance(named[name], View) else named[name] for name in names}
    # A forward epilogue does not read y, which is then `out` itself.
    others = [value for key, value in named.items() if key not in (*names, "y")]
    inputs = [value.vectors if isinstance(value, View) else value for value in others]
    if any(value is memory for value in inputs if isinstance(value, np.ndarray) for memory in results.values()):
        return {}
    before = {name: memory.copy() for name, memory in results.items()}
    for memory in results.values():
        memory[...] = np.nan
    # What another task left in the thread's scratch memory is not there either; in a result it would be seen.
    for name in {"scratch"} & named.keys():
        named[name][...] = 0
    program.run_task(0, task)
    filled = {name: ~np.isnan(memory) for name, memory in results.items()}
    for name, memory in results.items():
        memory[...] = before[name]
    return filled


def overlapping(calls: list[Call]) -> list[str]:
    """The kernels of which two tasks of one call fill the same entry, or none fills an entry of a sum, or of what
    parts come to.

    Sums and gradients that stand row by row, not in vectors of maps, are padded to whole vectors, whose ends nothing
    fills, and the parts of weights by one more, since vectors are read from each number on.
    """
    found = []
    for call in calls:
        program = Program([call])
        tasks = [written(program, task) for task in range(call.tasks)]
        for name in tasks[0]:
            owners = np.sum([filled[name] for filled in tasks], axis=0)
            by_rows = name in ("tap_parts", "dw") or call.kernel.__name__ == "contract_lanes"
            padding = (lanes(np.float64) - 1 if by_rows else 0) + lanes(np.float64) * (name == "parts" and by_rows)
            whole = name in SUMS or call.kernel.__name__ in ("add_tile_parts", "add_transposed_parts")
            owned = owners.reshape(len(owners), -1) if name in SUMS else owners.reshape(1, -1)
            empty = whole and (owned[:, : owned.shape[1] - padding] < 1).any()
            if (owners > 1).any() or empty:
                found.append(call.kernel.__name__)
    return found


@pytest.mark.parametrize("threads", [1, 9])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_entry_has_two_owners(name: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "get_threads", lambda: threads)
    # Convolutions of few rows pack.
    monkeypatch.setattr(machine, "of_amd", lambda: False)
    # Dense layers so small would be one task.
    monkeypatch.setattr(dense, "PARALLEL_WORK", 0)
    layers, shape = NETWORKS[name]
    network = Network(layers, shape, np.dtype("float64"), 0)
    bound = network.bind(11, input_gradient=True)
    rng = np.random.default_rng(0)
    bound.x.write(rng.normal(size=(11, *shape)))
    assert overlapping([*bound.forward, *bound.backward]) == []
    transposing = [call for call in bound.backward if call.kernel.__name__ == "contract_transposed"]
    for call in transposing:
        tile, tap_parts = call.arguments[0], call.arguments[-2]
        assert (tap_parts.size > 0) == name.startswith("channels")
        # Tasks of other panels leave sums of taps alone.
        assert tap_parts.size == 0 or tile.columns * lanes(np.float64) < 87
    kernels = [call.kernel.__name__ for call in (*bound.forward, *bound.backward)]
    tasks = {call.kernel.__name__: call.tasks for call in (*bound.forward, *bound.backward)}
    assert name != "dense" or tasks["contract_strips"] > 1 and tasks["contract_strips_weights"] > 1
    assert kernels.count("contract_pooled") == (2 if name == "pooled" else 0)
    assert ("clear_border" in kernels) == (name in ("pooled", "images", "packed", "winograd pooled"))
    ways = ("winograd", "winograd_overlap", "winograd_weights", "contract_transposed")
    expected = {
        "winograd overlap": [1, 1, 1, 0],
        "winograd": [2, 0, 1, 0],
        "packed": [0, 0, 0, 3],
        "filters in": [0, 0, 0, 1],
        "channels in": [0, 0, 0, 1],
    }
    counts = next((counts for start, counts in expected.items() if name.startswith(start)), [0, 0, 0, 0])
    assert [kernels.count(kernel) for kernel in ways] == counts
    assert kernels.count("contract_bands") == (1 if name == "few maps" else 0)
    assert name != "packed" or kernels.count("contract_packed") == (7 if vector_registers() == 32 else 0)


@pytest.mark.usefixtures("few_tiles")
@pytest.mark.parametrize("threads", [1, 9])
@pytest.mark.parametrize("name", ["images", "pooled", "winograd overlap"])
def test_no_entry_of_a_remainder_has_two_owners(name: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "get_threads", lambda: threads)
    layers, shape = NETWORKS[name]
    with remainders(taken=True):
        bound = Network(layers, shape, np.dtype("float64"), 0).bind(3, input_gradient=True)
    bound.x.write(np.random.default_rng(0).normal(size=(3, *shape)))
    assert overlapping([*bound.forward, *bound.backward]) == []
    kernels = {call.kernel.__name__ for call in (*bound.forward, *bound.backward)}
    assert {"rows_of_samples", "contract_remainder_weights"} < kernels
    assert {"samples_apart", "contract_remainder"} < kernels


@pytest.mark.usefixtures("few_tiles")
@pytest.mark.parametrize("threads", [1, 9])
def test_no_entry_of_a_prediction_for_few_samples_has_two_owners(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "get_threads", lambda: threads)
    # Eleven groups of outputs, which a tile does not divide.
    layers = [Dense(units=83), Relu(), Dense(units=20)]
    with remainders(taken=True):
        bound = Network(layers, (7,), np.dtype("float64"), 0).bind(3, training=False)
    assert overlapping(bound.forward) == []
    assert "contract_samples" in {call.kernel.__name__ for call in bound.forward}


@pytest.mark.usefixtures("few_tiles")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("threads", [1, 9])
@pytest.mark.parametrize("name", ["images", "pooled", "packed"])
def test_no_entry_has_two_owners_with_channels_in_lanes(
    name: str, threads: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "get_threads", lambda: threads)
    layers, shape = NETWORKS[name]
    with channels(taken=True):
        network = Network([*layers, Flatten(), Dense(units=3)], shape, np.dtype("float64"), 0)
        bound = network.bind(3, training=training, input_gradient=training)
    bound.x.write(np.random.default_rng(0).normal(size=(3, *shape)))
    calls = [*bound.forward, *bound.backward]
    assert overlapping(calls) == []
    kernels = {call.kernel.__name__ for call in calls}
    turned = {"lanes_of_channels", "channels_of_lanes", "contract_channels_weights"} if training else {"channels_apart"}
    assert {"contract_channels", *turned} < kernels


def test_shared_entries_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all tasks do the work of the first one."""
    network = Network([Dense(units=5)], (4,), np.dtype("float64"), 0)
    (call,) = network.bind(3).forward
    run_task = Program.run_task
    monkeypatch.setattr(Program, "run_task", lambda program, number, task: run_task(program, number, 0))
    assert overlapping([call._replace(tasks=2)]) == ["contract_strips"]


@pytest.mark.usefixtures("few_tiles")
@pytest.mark.parametrize("threads", [1, 9])
@pytest.mark.parametrize("name", ["winograd pooled", "winograd strides"])
def test_no_entry_has_two_owners_by_winograd_with_channels_in_lanes(
    name: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "get_threads", lambda: threads)
    layers, shape = NETWORKS[name]
    layers = [Conv2d(filters=shape[0], kernel=1), *layers]
    with channels(taken=True), winograd_of_channels():
        bound = Network(layers, shape, np.dtype("float64"), 0).bind(3, input_gradient=True)
    bound.x.write(np.random.default_rng(0).normal(size=(3, *shape)))
    assert overlapping([*bound.forward, *bound.backward]) == []
    tasks = [call.tasks for call in (*bound.forward, *bound.backward) if call.kernel.__name__ == "winograd_channels"]
    assert len(tasks) == 2 and min(tasks) > (1 if threads > 1 else 0)
