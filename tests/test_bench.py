"""Measuring: what is measured and how it is taken apart. No test here depends on how fast anything is."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from battery import layers_of
from click import ClickException
from click.testing import CliRunner
from command import DIGITS
from numpy.testing import assert_array_equal

import nnjit.bench.profile
from nnjit.bench import limits
from nnjit.bench.memory import peak_memory_bytes
from nnjit.bench.profile import PASSES, REST, _multiply_adds, profile
from nnjit.bench.timing import LEAST_RUNS, median_seconds, race, run_times
from nnjit.bench.workload import BATCHES, Workload, absent_files, bind_workload, measured_data
from nnjit.config import LoadedConfig, parse_config
from nnjit.errors import CheckFailedError, ConfigError
from nnjit.kernels import limits as kernels
from nnjit.kernels.program import Call, Program
from nnjit.kernels.threads import get_threads
from nnjit.kernels.tiles import TileShape
from nnjit.network import Network
from nnjit.parameters import aligned_zeros
from nnjit.prepare import check_shapes

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


def test_absent_data_need_a_shape() -> None:
    with pytest.raises(ConfigError) as error:
        measured_data(config(ABSENT.replace(", shape: [1, 6, 6]", "") + MODEL))
    assert str(error.value) == (
        "bench.yaml: data.shape: expected the shape of one input, since absent.npy is not there to tell; "
        "--set data.shape=[1,28,28], say, measures with made-up data"
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
    parts = sum(taken.seconds for layer in found.layers for taken in layer.passes.values())
    assert 0.3 < (parts + sum(found.rest.values())) / found.step_seconds < 2


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


# Scaling


def test_only_a_rise_of_the_cost_is_a_cliff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    scaling = importlib.import_module("scaling")
    costs = {"batch": {1: 9.0, 2: 1.0, 3: 1.4, 4: 2.2}, "side": {16: 9.0, 17: 9.0}}
    points = [
        scaling.Point(series, size, size, 1.0, size, cost) for series, of in costs.items() for size, cost in of.items()
    ]
    assert scaling.cliffs(points) == ["batch 3 to 4: 1.57 times the cost of a multiply-add"]
    page = scaling.markdown(points, scaling.cliffs(points))
    assert page.endswith("\n- batch 3 to 4: 1.57 times the cost of a multiply-add\n")
    assert scaling.markdown(points, []).endswith("\nNone.\n")


def test_every_size_of_a_series_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    scaling = importlib.import_module("scaling")
    for series in scaling.SERIES:
        for size, threads, loaded in scaling.sizes(series, 2):
            assert check_shapes(loaded)[-1] == (10,), (series, size)
            assert threads in (1, 2)


# Convolutions


def test_a_pass_reads_and_writes_the_images_that_it_cannot_but_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    convolutions = importlib.import_module("convolutions")
    case = convolutions.Case(3, 2, 5, 7, 8, 1, 6)
    assert case.operations == 2 * 6 * (7 * 4 * 4) * (5 * 3 * 3)
    inputs, outputs = 4 * 6 * 5 * 8 * 8, 4 * 6 * 7 * 4 * 4
    assert [case.data[name] for name in PASSES] == [
        ([inputs], [outputs]),
        ([outputs], [inputs]),
        ([inputs, outputs], []),
    ]


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


def test_the_table_of_convolutions_names_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that uses Winograd's algorithm to the input alone and so has a second line, and one that never does;
    nothing is compiled."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    convolutions = importlib.import_module("convolutions")
    monkeypatch.setattr(convolutions, "Program", list)
    monkeypatch.setattr(convolutions, "data_program", lambda *sizes: "data")
    monkeypatch.setattr(convolutions, "peak_gflops", lambda dtype, seconds: 200.0)
    monkeypatch.setattr(
        convolutions,
        "least_seconds",
        lambda calls, seconds: 1e-9 * case.operations / (600 if calls == "data" else 150),
    )
    lines = []
    for case in (convolutions.Case(3, 1, 16, 16, 7, 2, 16), convolutions.Case(2, 2, 1, 3, 5, "same", 16)):
        found = convolutions.measure_case(case, 1e-9)
        lines += convolutions.table(found).splitlines()[2:]
    assert convolutions.counted(found) == (
        "With the better setting 0 of 3 passes reach 80 % of the peak. Of the 3 others, 3 are faster than their "
        "arithmetic and their data apart."
    )
    direct, winograd = "150 | 75 | 75 | direct", "150 | 75 |  | Winograd"
    assert lines == [
        f"| 3x3 / 1 | 16 to 16 | 7 | 2 | 16 | auto | 200 | {direct} | {winograd} | {direct} |",
        f"| 3x3 / 1 | 16 to 16 | 7 | 2 | 16 | direct | 200 | {direct} | {direct} | {direct} |",
        f"| 2x2 / 2 | 1 to 3 | 5 | same | 16 | auto | 200 | {direct} | {direct} | {direct} |",
    ]


def test_a_turn_is_held_against_the_peak_of_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that runs faster and faster, and passes at half of what it allows just then."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    convolutions = importlib.import_module("convolutions")
    case = convolutions.Case(2, 2, 1, 3, 5, "same", 16)
    peaks: list[float] = []

    def peak(dtype: Any, seconds: float) -> float:
        peaks.append(100.0 + 10 * len(peaks))
        return peaks[-1]

    monkeypatch.setattr(convolutions, "Program", list)
    monkeypatch.setattr(convolutions, "data_program", lambda *sizes: "data")
    monkeypatch.setattr(convolutions, "peak_gflops", peak)

    def least_seconds(calls: Any, seconds: float) -> float:
        return 1e-9 * case.operations / (peaks[-1] + 5) * (3 if calls == "data" else 2)

    monkeypatch.setattr(convolutions, "least_seconds", least_seconds)
    found = convolutions.measure(case, "auto", 1e-9)
    assert len(peaks) == 1 + len(PASSES) * convolutions.TURNS
    assert [round(rate.share, 9) for rate in found.passes.values()] == [0.5] * 3
    assert [round(rate.apart, 9) for rate in found.passes.values()] == [0.25] * 3
    assert found.peak == np.median(peaks)


def test_every_pass_of_a_convolution_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    convolutions = importlib.import_module("convolutions")
    monkeypatch.setattr(convolutions, "peak_gflops", lambda dtype, seconds: 200.0)
    found = convolutions.measure_case(convolutions.Case(1, 1, 1, 1, 2, 0, 16), 1e-9)
    page = convolutions.page({"date": "today"}, 2, 0.1, found)
    assert page.startswith("# Convolutions\n\nGenerated by `convolutions.py`; do not edit.\n\n- date: today\n")
    assert page.endswith(convolutions.table(found)) and len(found) == 1


def test_a_page_without_a_folder_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    convolutions = importlib.import_module("convolutions")
    monkeypatch.setattr(convolutions, "CASES", ())
    absent = tmp_path / "absent" / "page.md"
    refused = CliRunner().invoke(convolutions.main, ["--write", str(absent)])
    assert refused.exit_code == 2 and f"no such folder: {absent.parent}" in refused.output
    page = tmp_path / "page.md"
    assert importlib.import_module("results").PagePath().convert(str(page), None, None) == page


# Random convolutions


def beside_torch(monkeypatch: pytest.MonkeyPatch, script: str) -> Any:
    """A script as a module, which compares with PyTorch."""
    pytest.importorskip("torch", reason="PyTorch is not installed; `pip install nnjit[peers]` installs it")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module(script)


@pytest.fixture
def random_convolutions(monkeypatch: pytest.MonkeyPatch) -> Any:
    return beside_torch(monkeypatch, "random_convolutions")


@pytest.mark.peers
def test_random_layers_are_the_same_for_a_seed_and_have_work_enough(random_convolutions: Any) -> None:
    found, again, others = (list(random_convolutions.layers(30, seed)) for seed in (3, 3, 4))
    assert found == again != others and len(found) == 30
    for case in found:
        assert 8e6 <= case.operations <= 400e6
        assert min(case.layer().output_shape(case.shape)) >= 1


@pytest.mark.peers
def test_every_pass_of_a_layer_is_compared_with_pytorchs(random_convolutions: Any) -> None:
    case = random_convolutions.Case(2, 2, 3, 5, 7, 1, 9)
    found = random_convolutions.compare(case, 1e-3)
    assert [each.of for each in found] == list(PASSES)
    assert all(each.case == case and each.ratio > 0 and each.share > 0 for each in found)


@pytest.mark.peers
@pytest.mark.parametrize("wrong", PASSES)
def test_a_result_that_differs_from_pytorchs_is_told(
    wrong: str, random_convolutions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = random_convolutions.torch_passes

    def spoilt(*operands: Any) -> Any:
        def twice() -> Any:
            result = passes[wrong]()
            return [2 * each for each in result] if isinstance(result, list | tuple) else 2 * result

        passes = right(*operands)
        return {**passes, wrong: twice}

    monkeypatch.setattr(random_convolutions, "torch_passes", spoilt)
    case = random_convolutions.Case(2, 2, 3, 5, 7, 1, 9)
    with pytest.raises(ClickException, match=rf"{wrong} of Case\(kernel=2.*differs from PyTorch's by 5e-01"):
        random_convolutions.compare(case, 1e-3)


@pytest.mark.peers
def test_the_page_of_random_convolutions_counts_what_is_slower(random_convolutions: Any) -> None:
    case = random_convolutions.Case(3, 2, 4, 8, 20, 1, 16)
    compared = [
        random_convolutions.Compared(case._replace(batch=number), name, number / 2, number / 10)
        for number in range(1, 12)
        for name in PASSES
    ]
    line = "0.50 | 1.00 | 3.00 | 5.00 | 5.50 | 1 of 11 | 4"
    assert random_convolutions.summary(compared).splitlines()[2:] == [f"| {name} | {line} |" for name in PASSES]
    listed = random_convolutions.slowest(compared).splitlines()[2:]
    assert len(listed) == random_convolutions.WORST
    assert listed[0] == f"| 3x3 / 2 | 4 to 8 | 20 | 1 | 1 | {PASSES[0]} | 0.50 | 10 |"


# Small batches


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Any:
    return beside_torch(monkeypatch, "small_batches")


@pytest.mark.peers
def test_steps_and_predictions_of_a_small_batch_are_timed(small_batches: Any) -> None:
    workload = small_batches.with_batch(small_batches.workload("nielsen-mlp"), 3)
    found = small_batches.compare("nielsen-mlp", workload, 0.01)
    assert found[:2] == ("nielsen-mlp", 3)
    assert min(*found.training, *found.prediction) > 0


@pytest.mark.peers
def test_predictions_that_differ_from_pytorchs_are_told(small_batches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = small_batches.with_batch(small_batches.workload("nielsen-mlp"), 3)
    contest = importlib.import_module("contest")
    monkeypatch.setattr(contest.TorchInference, "run", lambda self, number: np.full((3, 10), 2.0))
    with pytest.raises(CheckFailedError, match=r"outputs that agree to 0.0001, got 0\.[0-9]+ \(NCHW\)"):
        small_batches.compare("nielsen-mlp", workload, 0.01)


@pytest.mark.peers
def test_the_page_of_small_batches_tells_the_least_ratios(small_batches: Any) -> None:
    compared = [
        small_batches.Compared("a", 1, (2e-6, 3e-6), (1e-6, 4e-6)),
        small_batches.Compared("b", 2, (1e-3, 2e-3), (2e-6, 2.5e-6)),
    ]
    page = small_batches.page({"date": "today"}, 2, "again", compared)
    assert "1.50 in training, 1.25 in predictions" in page
    assert (
        "| a | 1 | 2 | 3 | 1.50 | 1 | 4 | 4.00 |" in page and "| b | 2 | 1,000 | 2,000 | 2.00 | 2 | 2 | 1.25 |" in page
    )


# Random networks


@pytest.fixture
def random_networks(monkeypatch: pytest.MonkeyPatch) -> Any:
    return beside_torch(monkeypatch, "random_networks")


@pytest.mark.peers
def test_random_networks_are_the_same_for_a_seed_and_fit_their_inputs(random_networks: Any) -> None:
    found, again, others = (list(random_networks.networks(20, seed)) for seed in (3, 3, 4))
    assert found == again != others
    assert [drawn.kind for drawn in found] == ["dense"] * 20 + ["images"] * 20
    for drawn in found:
        config = drawn.config.config
        network = Network(config.model, drawn.shape, np.dtype(np.float32), 0)
        assert network.output_shape == (config.data.classes,) and config.train.batch_size == drawn.batch


@pytest.mark.peers
def test_a_random_network_is_told_in_a_line_and_compared(random_networks: Any) -> None:
    sizes = {"filters": 2, "kernel": 3, "stride": 2, "padding": "same"}
    layers = ({"conv2d": sizes}, "relu", {"max_pool": 2}, "flatten", {"dense": 10})
    drawn = random_networks.Drawn("images", (1, 9, 9), layers, 3, 0.9)
    assert drawn.name == "1x9x9 conv 2 3x3/2 relu max 2 flatten dense 10"
    found = random_networks.compare(drawn.name, drawn.config, 0.01)
    assert found[:2] == (drawn.name, 3)
    assert min(*found.training, *found.prediction) > 0


@pytest.mark.peers
def test_the_page_of_random_networks_counts_what_is_slower(random_networks: Any) -> None:
    drawn = [random_networks.Drawn(kind, (5,), ({"dense": 10},), 8, 0.0) for kind in ("dense", "images")]
    results = [
        (each, random_networks.Compared(each.name, 8, (1e-6, number * 5e-7), (1e-6, 2e-6)))
        for each in drawn
        for number in range(1, 12)
    ]
    rows = random_networks.summary(results).splitlines()[2:]
    assert rows[0] == "| dense | training | 0.50 | 1.00 | 3.00 | 5.00 | 5.50 | 1 of 11 |"
    assert rows[3] == "| images | prediction | 2.00 | 2.00 | 2.00 | 2.00 | 2.00 | 0 of 11 |"
    listed = random_networks.slowest(results, "training").splitlines()[2:]
    assert len(listed) == random_networks.WORST and listed[0] == "| 5 dense 10 | 8 | 1 | 0 | 0.50 |"
    page = random_networks.page({"date": "today"}, 2, "again", results)
    assert "11 random networks of dense layers" in page and rows[0] in page
