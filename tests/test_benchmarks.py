"""The scripts in benchmarks/: what they draw, compare and write. No test here depends on how fast anything is."""

from __future__ import annotations

import ast
import importlib
import subprocess
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from shutil import which
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click import ClickException
from click.testing import CliRunner

import nnjit
from nnjit.bench.limits import Bandwidth, Limits
from nnjit.bench.profile import PASSES, Profile
from nnjit.errors import CheckFailedError
from nnjit.network import Network
from nnjit.prepare import check_shapes

SCRIPTS = Path(__file__).parents[1] / "benchmarks"

# Quiet machines


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("quiet")


def waited(quiet: Any, loads: Iterator[float], capsys: pytest.CaptureFixture[str]) -> tuple[list[float], list[str]]:
    """How long it slept while the load average was one of `loads` after the other, and what it said."""
    sleeps: list[float] = []
    quiet.wait_until_quiet(lambda: next(loads), sleeps.append)
    captured = capsys.readouterr()
    assert captured.out == ""
    return sleeps, captured.err.splitlines()


def test_a_quiet_machine_is_not_waited_for(quiet: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert waited(quiet, iter([quiet.BUSY]), capsys) == ([], [])


def test_a_busy_machine_is_waited_for(quiet: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sleeps, lines = waited(quiet, iter([1.6, 0.9, 0.51, 0.5]), capsys)
    assert sleeps == [quiet.LOOK] * 3
    assert lines == ["load average 1.6: waiting up to 180 s until it is 0.5"]


def test_a_machine_that_stays_busy_is_warned_of(quiet: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sleeps, lines = waited(quiet, repeat(2.0), capsys)
    assert sum(sleeps) == quiet.PATIENCE
    assert lines[1:] == ["warning: load average 2.0; other processes spoil the figures"]


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_every_script_that_measures_times_waits_before_it_begins(path: Path) -> None:
    """And before it says how busy the machine is."""
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    body = [ast.unparse(line) for node in functions if node.name == "main" for line in node.body]
    if not body or path.stem == "memory":
        return
    waits = body.index("wait_until_quiet()")
    for words in ("machine()", "measure(", "compare(", "compare_training(", "start("):
        assert not any(words in line for line in body[:waits]), words


# Pages


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("results")


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., str]:
    """Runs git in an empty folder, whoever the tests belong to."""
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")

    def run(*words: str) -> str:
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    if which("git") is None:
        pytest.skip("no git on the PATH")
    return run


def test_a_page_says_which_commit_was_measured(git: Callable[..., str], results: Any, tmp_path: Path) -> None:
    package, pages = tmp_path / "package", tmp_path / "benchmarks" / "xeon"
    package.mkdir()
    pages.mkdir(parents=True)
    (package / "__init__.py").touch()
    (pages / "page.md").write_text("old")
    assert results.commit(package) is None
    git("init", "--quiet")
    assert results.commit(package) is None
    git("add", ".")
    git("commit", "--quiet", "-m", "All")
    short = git("rev-parse", "--short", "HEAD")
    assert results.commit(package) == short
    (pages / "page.md").write_text("new")
    assert results.commit(package) == short
    (package / "new.py").touch()
    assert results.commit(package) == f"{short} with changes"
    git("add", ".")
    git("commit", "--quiet", "-m", "More")
    (package / "__init__.py").write_text("changed = True")
    assert results.commit(package) == f"{git('rev-parse', '--short', 'HEAD')} with changes"


def test_a_package_that_only_lies_in_a_checkout_is_not_of_its_commit(
    git: Callable[..., str], results: Any, tmp_path: Path
) -> None:
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "-m", "Nothing")
    installed = tmp_path / "site-packages" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert results.commit(installed) is None


def test_a_page_is_written_where_there_is_no_git(results: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert results.commit(SCRIPTS.parent / "nnjit") is None


def test_a_heading_names_what_was_measured(results: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that are not installed are left out."""
    monkeypatch.setattr(results, "PACKAGES", ("numpy", "no-such-package"))
    monkeypatch.setattr(results, "commit", lambda package: "abc1234")
    facts = results.machine()
    assert list(facts) == ["date", "processor", "system", "versions", "commit", "load average at the start"]
    assert facts["versions"] == f"nnjit {nnjit.__version__}, numpy {np.__version__}"
    monkeypatch.setattr(results, "commit", lambda package: None)
    assert "commit" not in results.machine()


def test_the_page_of_results_tells_what_its_columns_are(results: Any) -> None:
    parts = Profile(2e-6, 300.0, [], {"batch": 5e-7, "loss": 0.0, "update": 0.0, "calls": 1.5e-6})
    compared = [
        SimpleNamespace(
            name=name, batch_size=5, ratio=2.0, best_peer="NCHW", seconds={}, difference=3e-7, notes=[note],
            profile=profile, rate=lambda contender: {"nnjit": 2000.0, "NCHW": 1000.0}[contender],
        )
        for name, note, profile in (("mlp", "b", parts), ("mlp, inference", "a", None))
    ]  # fmt: skip
    limits = [Limits(1, 100.0, Bandwidth(1e9, 2e9, 3e9))]
    memory = {"nnjit": SimpleNamespace(loaded=1e6, peak=3e6)}
    page = results.page({"date": "today"}, 2, "python again", limits, compared, memory)
    assert page.startswith(
        "# Results\n\nGenerated by `compare_torch.py`; do not edit.\n\n"
        "- date: today\n- threads: 2, for every contender\n- to repeat: `python again`\n\n"
    )
    assert "| ratio | scikit-learn | difference |\n" in page and "difference of losses" not in page
    assert "losses, relative to each, or of the outputs of inference, relative to the largest" in page
    assert "| mlp, inference | 5 | 2,000 | 1,000 | NCHW | 2.00 |  | 3e-07 |\n\n- a\n- b\n" in page
    assert "Winograd's algorithm leaves most of these out" in page
    assert "### mlp, batch 5, 300.0 GFLOP/s\n" in page and "### mlp, inference" not in page
    assert page.endswith("|  | calls |  | 1.5 |  | 75.0 |  |  |  |  |  |  |\n")


# Starts and memory


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("cold_start", ["."], "File '.' is a directory."),
        ("cold_start", ["absent.yaml"], "File 'absent.yaml' does not exist."),
        ("cold_start", ["text"], "text:1:1: expected a mapping with data, model, loss, optimizer, train, seed"),
        ("memory", ["nnjit", "unknown", "1"], "expected workloads among nielsen-mlp, mlp, "),
        ("memory", ["nnjit", "mlp", "0"], "0 is not in the range 1<=x<="),
        ("memory", ["nnjit", "mlp", "x"], "'x' is not a valid integer."),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(
    script: str, words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("text")
    refused = CliRunner().invoke(importlib.import_module(script).main, words)
    assert isinstance(refused.exception, SystemExit) and refused.exit_code in (1, 2)
    assert message in refused.output


# Scaling


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("scaling")


def test_only_a_rise_of_the_cost_is_a_cliff(scaling: Any) -> None:
    costs = {"batch": {1: 9.0, 2: 1.0, 3: 1.4, 4: 2.2}, "side": {16: 9.0, 17: 9.0}}
    points = [
        scaling.Point(series, size, size, 1.0, size, cost) for series, of in costs.items() for size, cost in of.items()
    ]
    assert scaling.cliffs(points) == ["batch 3 to 4: 1.57 times the cost of a multiply-add"]
    page = scaling.page({"date": "today"}, 2, "again", points)
    assert page.endswith("\n- batch 3 to 4: 1.57 times the cost of a multiply-add\n")
    assert scaling.page({}, 2, "again", points[:1]).endswith("\nNone.\n")


def test_the_page_of_scaling_tells_what_it_holds_and_how_to_repeat_it(scaling: Any) -> None:
    points = [scaling.Point(series, 1, 1, 1.0, 1.0, 1.0) for series in ("side", "batch")]
    page = scaling.page({"date": "today"}, 2, "again", points)
    assert page.startswith(
        "# Scaling\n\nGenerated by `scaling.py`; do not edit.\n\n"
        "- date: today\n- threads: 2 where they are not what varies\n- to repeat: `again`\n\n"
        "What varies: sides of images under two convolutions of 16 filters, in batches of 16; batches of lenet5. "
    )
    assert "vgg-small" not in page and "32 x 32" not in page
    assert "divided by the multiply-adds of its forward pass alone" in page


def test_what_scaling_cannot_write_is_refused_before_anything_is_measured(
    scaling: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("measure", "wait_until_quiet"):
        monkeypatch.setattr(scaling, name, lambda *words: pytest.fail("it began"))
    (tmp_path / "file").touch()
    for words, message in (
        (["--out", str(tmp_path / "absent")], f"Directory '{tmp_path / 'absent'}' does not exist"),
        (["--out", str(tmp_path / "file")], f"Directory '{tmp_path / 'file'}' is a file"),
        (["--series", "side"], "--series needs --out, since the files in benchmarks/ hold all series"),
    ):
        refused = CliRunner().invoke(scaling.main, words)
        assert refused.exit_code == 2 and message in refused.output


@pytest.mark.parametrize("series", [["side"], ["side", "batch"], []])
def test_scaling_writes_the_series_that_it_measured(
    series: list[str], scaling: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(name: str, *words: Any) -> list[Any]:
        return [scaling.Point(name, size, 1, 1.0, 1.0, 1.0) for size in (1, 2)]

    for name, stub in {
        "measure": measure,
        "wait_until_quiet": lambda: None,
        "machine": lambda: {"date": "today"},
        "plot": lambda points, path: path.touch(),
        "find_spec": lambda name: True,
    }.items():
        monkeypatch.setattr(scaling, name, stub)
    words = [word for name in series for word in ("--series", name)]
    done = CliRunner().invoke(scaling.main, [*words, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    expected = [name for name in scaling.SERIES if name in (series or scaling.SERIES)]
    lines = (tmp_path / "scaling.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines[1::2]] == expected
    page = (tmp_path / "scaling.md").read_text()
    options = "".join(f" --series {name}" for name in series)
    repeat = f"- to repeat: `python benchmarks/scaling.py --rounds 5 --seconds 0.2{options} --out FOLDER`\n"
    assert repeat in page and (tmp_path / "scaling.png").exists()


def test_every_size_of_a_series_can_be_measured(scaling: Any) -> None:
    for series in scaling.SERIES:
        for size, threads, loaded in scaling.sizes(series, 2):
            assert check_shapes(loaded)[-1] == (10,), (series, size)
            assert threads in (1, 2)


# Convolutions


def test_a_pass_reads_and_writes_the_images_that_it_cannot_but_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    convolutions = importlib.import_module("convolutions")
    case = convolutions.Case(3, 2, 5, 7, 8, 1, 6)
    assert case.operations == 2 * 6 * (7 * 4 * 4) * (5 * 3 * 3)
    inputs, outputs = 4 * 6 * 5 * 8 * 8, 4 * 6 * 7 * 4 * 4
    assert [case.data[name] for name in PASSES] == [
        ([inputs], [outputs]),
        ([outputs], [inputs]),
        ([inputs, outputs], []),
    ]


def test_the_table_of_convolutions_names_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that uses Winograd's algorithm to the input alone and so has a second line, and one that never does;
    nothing is compiled."""
    monkeypatch.syspath_prepend(SCRIPTS)
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
    monkeypatch.setattr(convolutions, "least_seconds", lambda calls, seconds: 1e-9 * case.operations / 170)
    found = convolutions.measure_case(case, 1e-9)
    assert convolutions.counted(found) == "With the better setting 3 of 3 passes reach 80 % of the peak."
    direct, winograd = "150 | 75 | 75 | direct", "150 | 75 |  | Winograd"
    assert lines == [
        f"| 3x3 / 1 | 16 to 16 | 7 | 2 | 16 | auto | 200 | {direct} | {winograd} | {direct} |",
        f"| 3x3 / 1 | 16 to 16 | 7 | 2 | 16 | direct | 200 | {direct} | {direct} | {direct} |",
        f"| 2x2 / 2 | 1 to 3 | 5 | same | 16 | auto | 200 | {direct} | {direct} | {direct} |",
    ]


def test_a_turn_is_held_against_the_peak_of_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that runs faster and faster, and passes at half of what it allows just then."""
    monkeypatch.syspath_prepend(SCRIPTS)
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
    monkeypatch.syspath_prepend(SCRIPTS)
    convolutions = importlib.import_module("convolutions")
    monkeypatch.setattr(convolutions, "peak_gflops", lambda dtype, seconds: 200.0)
    found = convolutions.measure_case(convolutions.Case(1, 1, 1, 1, 2, 0, 16), 1e-9)
    page = convolutions.page({"date": "today"}, 2, 0.1, found)
    assert page.startswith("# Convolutions\n\nGenerated by `convolutions.py`; do not edit.\n\n- date: today\n")
    assert page.endswith(convolutions.table(found)) and len(found) == 1


def test_a_page_without_a_folder_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
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
    monkeypatch.syspath_prepend(SCRIPTS)
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
    assert all(each.case == case and min(each.ratio, each.share, each.apart) > 0 for each in found)
    assert all(each.apart < 1 for each in found)


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
        random_convolutions.Compared(
            case._replace(batch=number), name, number / 2, number / 10, 0.5 if number < 7 else 0.9
        )
        for number in range(1, 12)
        for name in PASSES
    ]
    line = "0.50 | 1.00 | 3.00 | 5.00 | 5.50 | 1 of 11 | 4 | 2 | 5"
    assert random_convolutions.summary(compared).splitlines()[2:] == [f"| {name} | {line} |" for name in PASSES]
    listed = random_convolutions.slowest(compared).splitlines()[2:]
    assert len(listed) == random_convolutions.WORST
    assert listed[0] == f"| 3x3 / 2 | 4 to 8 | 20 | 1 | 1 | {PASSES[0]} | 0.50 | 10 | 50 |"
    # Batches of 1 to 4 and 7 are slower than apart, 5 and 6 are not; from 8 on they reach enough.
    furthest = [line.split(" | ")[4:] for line in random_convolutions.furthest(compared).splitlines()[2 :: len(PASSES)]]
    assert [(batch, share) for batch, _, _, share, _ in furthest] == [(str(n), str(10 * n)) for n in (1, 2, 3, 7, 4)]


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
