"""Measuring: what is measured and how it is taken apart. No test here depends on how fast anything is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from battery import layers_of
from command import DIGITS
from numpy.testing import assert_array_equal

import nnjit.bench.profile
from nnjit.bench import limits
from nnjit.bench.memory import peak_memory_bytes
from nnjit.bench.profile import PASSES, REST, LayerTimes, Pass, PassTime, Profile, _multiply_adds, profile
from nnjit.bench.timing import LEAST_RUNS, median_seconds, race, run_times
from nnjit.bench.workload import BATCHES, Workload, absent_files, bind_workload, measured_data
from nnjit.config import LoadedConfig, parse_config
from nnjit.errors import ConfigError
from nnjit.kernels import limits as kernels
from nnjit.kernels.program import Call, Program
from nnjit.kernels.threads import get_threads
from nnjit.kernels.tiles import TileShape
from nnjit.network import Network
from nnjit.parameters import aligned_zeros

MODEL = """\
model:
  - conv2d: {filters: 3, kernel: 3}
  - relu
  - max_pool: 2
  - flatten
  - dense: 4
loss: softmax_cross_entropy
optimizer: {learning_rate: 0.1, momentum: 0.9}
train: {batch_size: 8}
"""
ABSENT = "data: {train: {inputs: absent.npy, targets: gone.npy}, shape: [1, 6, 6], classes: 4}\n"


def config(text: str, *overrides: str) -> LoadedConfig:
    return parse_config(text, "bench.yaml", Path(), overrides)


def images(*overrides: str) -> Workload:
    loaded = config(ABSENT + MODEL, *overrides)
    return bind_workload(loaded.config, measured_data(loaded))


# Timing


def test_runs_are_numbered_and_the_warm_up_does_not_count() -> None:
    numbers: list[int] = []
    times = run_times(numbers.append, 0.01)
    assert numbers == list(range(len(numbers)))
    assert LEAST_RUNS <= len(times) < len(numbers)
    assert all(taken >= 0 for taken in times)


def test_slow_runs_still_count() -> None:
    numbers: list[int] = []
    assert len(run_times(numbers.append, 1e-9)) == LEAST_RUNS
    assert median_seconds(numbers.append, 1e-9) >= 0


def test_contenders_take_turns() -> None:
    order: list[str] = []
    turns = race({"a": lambda _: order.append("a"), "b": lambda _: order.append("b")}, rounds=2, seconds=1e-9)
    changes = [name for name, before in zip(order, ["", *order], strict=False) if name != before]
    assert changes == ["a", "b", "a", "b"]
    assert {name: len(times) for name, times in turns.items()} == {"a": 2, "b": 2}


# Workloads


def test_made_up_data_have_the_shape_and_classes_of_the_config() -> None:
    loaded = config(ABSENT + MODEL)
    dataset = measured_data(loaded)
    train = dataset.train
    assert absent_files(loaded) == ["absent.npy", "gone.npy"]
    assert train.inputs.shape == (8 * BATCHES, 1, 6, 6) and len(train) == 8 * BATCHES
    assert train.targets is not None and set(train.targets.tolist()) == {0, 1, 2, 3}
    assert dataset.classes == ["0", "1", "2", "3"]


@pytest.mark.parametrize("size", [10**9, 10**20])
def test_made_up_data_larger_than_memory(size: int) -> None:
    text = ABSENT.replace("[1, 6, 6]", f"[1, {size}, {size}]") + MODEL
    with pytest.raises(MemoryError, match="Unable to allocate an array with shape"):
        measured_data(config(text))


def test_made_up_targets_are_numbers_without_classes() -> None:
    text = ABSENT.replace(", classes: 4", "") + MODEL.replace("softmax_cross_entropy", "mean_squared_error")
    dataset = measured_data(config(text))
    assert dataset.classes is None and dataset.target_shape == (4,)
    assert dataset.train.targets is not None and dataset.train.targets.shape == (8 * BATCHES, 4)


def test_one_output_says_yes_or_no() -> None:
    text = ABSENT.replace("classes: 4", "classes: 2") + MODEL.replace("dense: 4", "dense: 1")
    dataset = measured_data(config(text.replace("softmax_cross_entropy", "binary_cross_entropy")))
    assert dataset.classes == ["0", "1"]


@pytest.mark.parametrize(
    ("train", "model", "shape"),
    [
        ("inputs: absent.npy, targets: gone.npy", "[{conv2d: {filters: 3, kernel: 3}}]", "[1,28,28]"),
        ("inputs: absent.npy, targets: gone.npy", "[flatten, dense: 4]", "[1,28,28]"),
        ("inputs: absent.npy, targets: gone.npy", "[dense: 4]", "[10]"),
        ("file: absent.npz", "[relu, flatten]", "[1,28,28]"),
        ("file: absent.csv", "[dense: 4]", "[10]"),
        ("file: absent.csv", "[relu, dense: 4]", "[10]"),
        ("file: absent.csv", "[{conv2d: {filters: 3, kernel: 3}}]", "[1,28,28]"),
        ("file: absent.csv", "[{conv2d: {filters: 3, kernel: 40}}]", "[1,28,28]"),
    ],
)
def test_absent_data_need_a_shape(train: str, model: str, shape: str) -> None:
    """The message offers one that the network can take."""
    rest = MODEL[MODEL.index("loss") :]
    loaded = config(f"data: {{train: {{{train}}}, classes: 4}}\nmodel: {model}\n{rest}")
    (name,) = absent_files(loaded)[:1]
    with pytest.raises(ConfigError) as error:
        measured_data(loaded)
    assert str(error.value) == (
        f"bench.yaml: data.shape: expected the shape of one input, since {name} is not there to tell; "
        f"--set data.shape={shape}, say, measures with made-up data"
    )


def test_data_that_are_there_are_repeated() -> None:
    """More samples than the file has, in its own order."""
    data = (
        f"data: {{train: {{file: {DIGITS}/train.csv, target: digit, rows: [0, 30]}}, validation: {{fraction: 0.5}}}}\n"
    )
    loaded = config(data + "model: [dense: 10]\n" + MODEL[MODEL.index("loss") :])
    dataset = measured_data(loaded)
    assert absent_files(loaded) == []
    assert_array_equal(dataset.train.rows, np.arange(8 * BATCHES) % 30)
    assert dataset.validation is None


def test_reset_starts_training_anew() -> None:
    workload = images()
    losses = [workload.run(number) for number in range(3)]
    workload.reset()
    assert [workload.run(number) for number in range(3)] == losses
    assert losses[0] != losses[1]


def test_runs_go_round() -> None:
    workload = images()
    first = workload.run(0)
    workload.reset()
    assert workload.run(BATCHES) == first


def test_buffers_are_counted_once_and_without_the_data() -> None:
    workload = images()
    parameters = workload.network.weights.nbytes
    inputs = workload.step.feed.split.inputs.nbytes
    assert 3 * parameters <= workload.buffer_bytes
    assert images("train.batch_size=16").buffer_bytes < workload.buffer_bytes + inputs


def test_peak_memory_grows_by_what_is_touched() -> None:
    before = peak_memory_bytes()
    size = 2 * before  # the peak so far may have been higher than what is in use now
    memory = np.ones(size, np.uint8)
    assert peak_memory_bytes() > before
    assert memory[0] == 1


# Profiles


def test_a_profile_names_every_pass() -> None:
    found = profile(images(), 0.05)
    assert [(layer.position, layer.kind, layer.shape) for layer in found.layers] == [
        (0, "conv2d+relu+max_pool", (3, 2, 2)),
        (2, "max_pool", (3, 2, 2)),
        (3, "flatten", (12,)),
        (4, "dense", (4,)),
    ]
    convolution, pool, flatten, dense = (layer.passes for layer in found.layers)
    assert list(convolution) == ["forward", "gradient_to_weights"]  # nothing needs the gradient of the network's input
    assert list(pool) == ["gradient_to_input"]  # its forward pass is in the convolution's
    assert list(flatten) == []
    assert list(dense) == list(PASSES)
    assert tuple(found.rest) == REST


def test_the_rows_of_a_profile_add_up_to_the_step() -> None:
    found = profile(images(), 0.05)
    rows = [taken for layer in found.layers for taken in layer.passes.values()]
    assert math.isclose(sum(taken.seconds for taken in rows) + sum(found.rest.values()), found.step_seconds)


def test_all_of_a_step_is_calls_where_no_part_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running a part took no longer than running nothing."""
    monkeypatch.setattr(nnjit.bench.profile, "median_seconds", lambda run, seconds: 1.0)
    found = profile(images(), 0.01)
    assert found.rest == {"batch": 0.0, "loss": 0.0, "update": 0.0, "calls": found.step_seconds}


def test_rates_follow_from_multiply_adds_and_times() -> None:
    found = profile(images(), 0.05)
    convolution, pool, _, dense = (layer.passes for layer in found.layers)
    for passes, multiply_adds in ((convolution, 8 * 3 * 16 * 9), (dense, 8 * 12 * 4)):
        for taken in passes.values():
            assert taken.gflops is None or math.isclose(taken.gflops, 2e-9 * multiply_adds / taken.seconds)
            assert math.isclose(taken.share, taken.seconds / found.step_seconds)
    assert pool["gradient_to_input"].gflops is None
    total = 2 * 8 * 3 * 16 * 9 + 3 * 8 * 12 * 4
    assert math.isclose(found.gflops, 2e-9 * total / found.step_seconds)


def test_the_highest_rate_is_that_of_the_whole_or_of_a_pass() -> None:
    passes: dict[Pass, PassTime] = {"forward": PassTime(1.0, 7.0, 1.0), "gradient_to_weights": PassTime(0.0, None, 0.0)}
    layers = [LayerTimes(0, "dense", (4,), passes), LayerTimes(1, "flatten", (4,), {})]
    assert Profile(1.0, 5.0, layers, {}).highest_gflops == 7.0
    assert Profile(1.0, 9.0, layers, {}).highest_gflops == 9.0
    assert Profile(1.0, 5.0, [], {}).highest_gflops == 5.0


def test_what_falls_into_no_window_is_no_work() -> None:
    layers = layers_of({"conv2d": {"filters": 3, "kernel": 3, "padding": "same"}}, {"max_pool": 2})
    network = Network(layers, (2, 5, 7), np.float32, seed=0)
    (stage,), (site,) = network.stages, network.bind(4).sites
    assert _multiply_adds(stage, site, "forward") == 4 * 3 * 2 * 9 * (4 * 6)


def test_a_part_too_short_to_tell_has_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running it took no longer than running nothing."""
    monkeypatch.setattr(nnjit.bench.profile, "median_seconds", lambda run, seconds: 1.0)
    dense = profile(images(), 0.01).layers[-1].passes
    assert [(taken.seconds, taken.gflops, taken.share) for taken in dense.values()] == [(0.0, None, 0.0)] * 3


def test_parts_make_up_the_whole() -> None:
    """Within what else the machine may do meanwhile."""
    found = profile(images("train.batch_size=256"), 0.3)
    assert 0.3 < (found.step_seconds - found.rest["calls"]) / found.step_seconds < 2


# Limits


def test_the_multiply_add_kernel_sums_its_products() -> None:
    tile = TileShape(2, 3, 1, 1)
    rng = np.random.default_rng(0)
    w, x = aligned_zeros((8,), np.float32), aligned_zeros((12, 16), np.float32)
    w[:], x[:] = rng.integers(0, 5, 8), rng.integers(0, 5, (12, 16))
    out = aligned_zeros((2 * 6, 16), np.float32)
    Program([Call(kernels.multiply_add, 2, (tile, np.full(1, 3), w, x, out), 1)]).run()
    expected = 3 * np.einsum("kr,kcl->rcl", w.reshape(4, 2), x.reshape(4, 3, 16))
    assert_array_equal(out.reshape(2, 2, 3, 16), [expected, expected])


def test_the_memory_kernels_reach_every_number() -> None:
    x, out = (aligned_zeros((24, 16), np.float32) for _ in range(2))
    x[:] = np.arange(24 * 16).reshape(24, 16)
    sums = aligned_zeros((3, 16), np.float32)
    Program([Call(kernels.read, 3, (8, x, sums), 1), Call(kernels.copy, 3, (8, x, out), 1)]).run()
    assert_array_equal(sums, x.reshape(3, 8, 16).sum(axis=1))
    assert_array_equal(out, x)
    Program([Call(kernels.write, 3, (8, out), 1)]).run()
    assert_array_equal(out, np.ones_like(out))


def test_limits_of_one_thread_and_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROUNDS", 10)
    monkeypatch.setattr(limits.bandwidth, "__defaults__", (2**20,))
    before = get_threads()
    found = limits.machine_limits(0.01)
    assert [each.threads for each in found] == sorted({1, before})
    assert all(each.peak_gflops > 0 and min(vars(each.bandwidth).values()) > 0 for each in found)
    assert get_threads() == before


def test_data_are_read_and_written_whole() -> None:
    size = limits.CHUNK_BYTES
    program = limits.data_program([1, 2 * size], [size + 1])
    program.run()
    small, large, written = program.calls
    assert [call.kernel for call in program.calls] == [kernels.read, kernels.read, kernels.write]
    for call, chunks in ((small, 1), (large, 2)):
        assert call.tasks == chunks
        assert float(call.arguments[2].sum()) * 4 == chunks * size  # of ones
    assert (written.arguments[1] == 1).all() and written.arguments[1].nbytes == 2 * size
