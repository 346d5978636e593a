"""What `nnjit gradcheck` prints, and how it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from battery import compiled_only
from command import TINY, nnjit, without_compiling

from nnjit.gradcheck import Probe, cases, faults
from nnjit.gradcheck.difference import Line
from nnjit.layers import Layer
from nnjit.losses import Loss

pytestmark = [pytest.mark.usefixtures("few_tiles"), compiled_only("a check runs the forward pass thousands of times")]

NAMES = [f"layers.{name}" for name in ("0.input", "0.weight", "0.bias", "2.input", "2.weight", "2.bias")]
DECAY = ("--set", "optimizer.weight_decay=1e-3")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a config in it."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    return tmp_path


def gradcheck(*words: Any) -> list[str]:
    """The lines of a check of the small config that passes."""
    few = () if "--fast" in words or "--against" in words else ("--entries", 5)
    result = nnjit("gradcheck", "tiny.yaml", *few, *words)
    assert (result.exit_code, without_compiling(result.stderr)) == (0, ""), result.output
    return result.stdout.splitlines()


def names(lines: list[str]) -> list[str]:
    """The first word of each row of a table."""
    return [line.split()[0] for line in lines if line.startswith("  ") and "beyond rounding" not in line]


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network with the gradient of its first weight's largest entry 1 % too large."""
    original: Callable[..., Any] = Probe.compile

    def compile(probe: Probe) -> None:
        if not probe.after_backward:
            faults.one_percent(probe)
        original(probe)

    monkeypatch.setattr(Probe, "compile", compile)


# What is right


def test_a_row_for_each_tensor() -> None:
    lines = gradcheck()
    assert lines[0] == "tiny.yaml, 9 samples, float64, at the start"
    assert lines[1] == "  tolerance 1e-06 beyond rounding; inputs jittered by 0.05, parameters by 0.1"
    assert lines[2].split() == "tensor checked failed kinks skipped worst analytic numeric error 1 % missed".split()
    assert names(lines) == ["tensor", *NAMES]
    for line, size in zip(lines[3:], (576, 768, 12, 108, 120, 10), strict=True):
        _, checked, failed, kinks, skipped, *_, missed, verdict = line.split()
        assert (checked, failed, kinks, skipped, missed, verdict) == ("5", "0", "0", str(size - 5), "0.00%", "ok")


def test_all_entries_of_some_layers() -> None:
    assert [line.split()[:5] for line in gradcheck("--layers", "2", "--entries", "all")[3:]] == [
        [NAMES[3], "108", "0", "0", "0"],
        [NAMES[4], "120", "0", "0", "0"],
        [NAMES[5], "10", "0", "0", "0"],
    ]
    assert names(gradcheck("--layers", "relu")) == ["tensor", *NAMES[:3]]
    assert names(gradcheck("--layers", "0, 2")) == ["tensor", *NAMES]
    assert names(gradcheck("--layers", "dense")) == ["tensor", *NAMES]


def test_at_the_start_and_again_after_training() -> None:
    lines = gradcheck("--steps", 7, "--samples", 1)
    titles = [line for line in lines if not line.startswith(" ")]
    assert titles == ["tiny.yaml, 1 sample, float64, at the start", "tiny.yaml, 1 sample, float64, after 7 steps"]
    assert names(lines) == ["tensor", *NAMES] * 2
    assert lines[len(NAMES) + 4] == "  tolerance 1e-06 beyond rounding; inputs jittered by 0.05"


def test_float32() -> None:
    lines = gradcheck("--dtype", "float32", "--tolerance", "2e-5")
    assert lines[0] == "tiny.yaml, 17 samples, float32, at the start"
    assert lines[1] == (
        "  float32 gradients, float64 differences; tolerance 2e-05 beyond rounding; "
        "inputs jittered by 0.05, parameters by 0.1"
    )
    assert names(lines) == ["tensor", *NAMES] and all(line.endswith("  0.00%  ok") for line in lines[3:])


def test_weight_decay_is_checked_on_its_own() -> None:
    lines = gradcheck(*DECAY)
    assert names(lines) == ["tensor", *NAMES, "penalty"]
    assert lines[-1].startswith("  penalty of layers.") and lines[-1].endswith("  ok")
    assert names(gradcheck(*DECAY, "--layers", "0")) == ["tensor", *NAMES[:3]]


def test_built_in_cases_of_a_kind() -> None:
    result = nnjit("gradcheck", "--layers", "tanh,mean_squared_error", "--entries", 3)
    assert result.exit_code == 0
    assert [line for line in result.stdout.splitlines() if not line.startswith(" ")] == [
        "tanh {}, input (7,), 11 samples",
        "tanh {}, input (2, 3, 5), 1 sample",
        "tanh {}, input (3, 2, 2, 2), 8 samples",
        "tanh applied by conv2d and dense, 11 samples",
        "loss mean_squared_error, output (7,), 11 samples",
        "loss mean_squared_error, output (1,), 3 samples",
        "loss mean_squared_error, output (2, 3, 3), 1 sample",
    ]


def test_json() -> None:
    (line,) = gradcheck("--json", *DECAY)
    found = json.loads(line)
    tensors = found.pop("tensors")
    assert found == {
        "title": "tiny.yaml, 9 samples, float64, at the start",
        "dtype": "float64",
        "tolerance": 1e-6,
        "max_kinks": 0.5,
        "fast": False,
        "note": "inputs jittered by 0.05, parameters by 0.1",
        "passed": True,
    }
    assert [tensor["name"] for tensor in tensors[:-1]] == NAMES
    weight = tensors[1]
    assert weight.pop("error") < 1e-6 and weight.pop("numeric") == pytest.approx(weight.pop("analytic"))
    assert len(weight.pop("worst_index")) == 2
    # Gradients of 0, behind a relu that is off, are neither.
    assert 0 < weight.pop("seen") <= 5 and weight.pop("hidden") == 0
    assert weight == {
        "name": "layers.0.weight",
        "shape": [12, 64],
        "entries": 768,
        "fast": False,
        "compared": 5,
        "checked": 5,
        "skipped": 763,
        "failed": 0,
        "kinks": 0,
        "too_many_kinks": False,
        "missed": 0.0,
        "passed": True,
    }


def test_directions_of_each_tensor() -> None:
    lines = gradcheck("--fast", *DECAY)
    assert lines[2].split() == "tensor entries directions failed kinks analytic numeric error 1 % missed".split()
    for line, name, size in zip(lines[3:-1], NAMES, (576, 768, 12, 108, 120, 10), strict=True):
        words = line.split()
        assert (*words[:5], words[-1]) == (name, str(size), "8", "0", "0", "ok") and words[-2].endswith("%")
    assert lines[-1].split()[3:6] == ["910", "0", "0"]
    (line,) = gradcheck("--fast", "--json", "--layers", "2")
    assert [(tensor["checked"], tensor["skipped"]) for tensor in json.loads(line)["tensors"]] == [
        (108, 0),
        (120, 0),
        (10, 0),
    ]


def test_a_point_that_training_does_not_reach() -> None:
    result = nnjit("gradcheck", "tiny.yaml", "--layers", 2, "--steps", 300, "--set", "optimizer.learning_rate=1e300")
    assert (result.exit_code, without_compiling(result.stderr)) == (
        4,
        "error: step 2: expected a finite loss to check gradients of, got nan; "
        "use fewer --steps or a smaller optimizer.learning_rate\n",
    )


def test_a_scan() -> None:
    lines = gradcheck("--scan", "--layers", "2")[6:]
    assert len(lines) == 3 * 11
    assert lines[0].startswith("  layers.2.input[") and ", analytic " in lines[0]
    assert lines[1].split() == ["h", "difference", "error", "extrapolated", "error"]
    assert [line.split()[0] for line in lines[2:10]] == [f"1.0e-0{k}" for k in range(2, 10)]
    assert sum(line.endswith("best") for line in lines[:11]) == 1
    assert lines[10].startswith("    right: the gradient agrees with ")


def test_a_scan_as_json_and_as_a_picture(folder: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws with matplotlib")
    (line,) = gradcheck("--scan", "--json", "--plot", "scan.png")
    scans = json.loads(line)["scans"]
    assert [found["name"] for found in scans] == NAMES
    assert all(len(found["rows"]) == 8 and found["cause"] == "right" for found in scans)
    assert (folder / "scan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "file, exit_code, message",
    [
        ("scan.xyz", 2, "expected a name that ends with .png or .pdf or .svg"),
        ("none/scan.png", 1, "expected a folder that exists, got none"),
    ],
)
def test_a_picture_that_cannot_be_drawn(file: str, exit_code: int, message: str) -> None:
    result = nnjit("gradcheck", "tiny.yaml", "--scan", "--plot", file)
    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", f"error: {file}: {message}\n")


def test_against_the_reference() -> None:
    lines = gradcheck("--against", "reference")
    assert lines[0] == "tiny.yaml, 9 samples, float64, at the start, against reference, tolerance 1e-12"
    rows = ["layers.1.output", "layers.2.output", "loss", *(NAMES[k] for k in (0, 1, 2, 4, 5))]
    assert names(lines) == ["tensor", *rows]
    assert all(line.endswith("  ok") for line in lines[2:])
    found = json.loads(gradcheck("--against", "reference", "--json", "--dtype", "float32")[0])
    assert (found["peer"], found["tolerance"], found["skipped"], found["passed"]) == ("reference", 1e-4, [], True)


@pytest.mark.peers
def test_against_torch() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed; `pip install nnjit[peers]` installs it")
    result = nnjit("gradcheck", "--against", "torch", "--layers", "max_pool")
    assert result.exit_code == 0 and "skipped" not in result.stdout
    titles = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert titles == [
        f"{case.title}, against torch, tolerance 1e-12"
        for case in cases.cases(np.dtype(np.float64))
        if "max_pool" in case.kinds
    ]


# What is wrong


@pytest.mark.usefixtures("spoilt")
def test_a_wrong_gradient_ends_it_with_5() -> None:
    result = nnjit("gradcheck", "tiny.yaml", "--scan")
    assert (result.exit_code, without_compiling(result.stderr)) == (5, "error: 1 tensor does not pass\n")
    (wrong,) = (line for line in result.stdout.splitlines() if line.endswith("WRONG"))
    assert wrong.split()[0] == "layers.0.weight" and wrong.split()[-3:] == ["9.9e-03", "0.00%", "WRONG"]
    assert (
        sum(line.startswith("    wrong gradient: the differences agree on ") for line in result.stdout.splitlines())
        == 1
    )


@pytest.mark.usefixtures("spoilt")
@pytest.mark.parametrize("words, said", [(["--fast"], "WRONG"), (["--against", "reference"], "DIFFERENT")])
def test_so_it_does_in_other_modes(words: list[str], said: str) -> None:
    result = nnjit("gradcheck", "tiny.yaml", *words)
    assert (result.exit_code, without_compiling(result.stderr)) == (5, "error: 1 tensor does not pass\n")
    (wrong,) = (line for line in result.stdout.splitlines() if line.endswith(said))
    assert wrong.split()[0] == "layers.0.weight"


@pytest.mark.usefixtures("spoilt")
def test_json_of_what_is_wrong() -> None:
    result = nnjit("gradcheck", "--json", "--layers", "dense")
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert (result.exit_code, result.stderr) == (5, f"error: {len(reports)} tensors do not pass\n")
    assert not any(report["passed"] for report in reports)


def test_too_many_kinks_end_it_with_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "numeric", lambda line, step: None)
    result = nnjit("gradcheck", "tiny.yaml", "--layers", "2", "--entries", 2)
    assert (result.exit_code, without_compiling(result.stderr)) == (5, "error: 3 tensors do not pass\n")
    for line in result.stdout.splitlines()[3:]:
        assert line.split("  ")[-1].lstrip() == "MORE THAN 50% KINKS, try fewer --samples or another --seed"


# The self-test


def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small network stands for every kind."""
    case = next(case for case in cases.cases(np.float64) if case.kinds == ("dense",))
    every = (*Layer.kinds(), *Loss.kinds())
    monkeypatch.setattr(faults, "cases", lambda dtype: [replace(case, kinds=every)])


def test_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    few_cases(monkeypatch)
    result = nnjit("gradcheck", "--self-test")
    assert (result.exit_code, without_compiling(result.stderr)) == (0, "")
    lines = [line for line in result.stdout.splitlines() if line.startswith("dense ")]
    assert [line[22:46].split("  ")[0] for line in lines] == [
        "as it is",
        "wrong sign",
        "one percent",
        "missing bias",
        "forgotten mean",
    ]
    assert [line.split("  layers")[0].split()[-1] for line in lines] == ["passed", *["caught"] * 4]
    kinds = len(Layer.kinds()) + len(Loss.kinds())
    assert result.stdout.splitlines()[-1] == f"{kinds} kinds passed as they are, {4 * kinds} planted faults were caught"


def test_a_fault_that_is_none_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_fault(probe: Probe) -> bool:
        return True

    few_cases(monkeypatch)
    monkeypatch.setattr(faults, "FAULTS", (faults.wrong_sign, no_fault))
    kinds = len(Layer.kinds()) + len(Loss.kinds())
    message = f"error: {kinds} of the self-test's results are not as expected\n"
    result = nnjit("gradcheck", "--self-test")
    assert (result.exit_code, without_compiling(result.stderr)) == (5, message)
    assert sum(line.endswith("  NOT AS EXPECTED") for line in result.stdout.splitlines()) == kinds
    result = nnjit("gradcheck", "--self-test", "--json")
    assert (result.exit_code, result.stderr) == (5, message)
    trials = [json.loads(line) for line in result.stdout.splitlines()]
    assert [trial["expected"] for trial in trials] == [True, True, False] * kinds


# Wrong input


@pytest.mark.parametrize(
    "words, message",
    [
        (("--entries", "0"), "Invalid value for '--entries': expected a whole number of at least 1 or 'all', got '0'"),
        (("--entries", "x"), "Invalid value for '--entries': expected a whole number of at least 1 or 'all', got 'x'"),
        (("--tolerance", "0"), "Invalid value for '--tolerance': expected a number between 0 and 1, got '0'"),
        (("--tolerance", "nan"), "Invalid value for '--tolerance': expected a number between 0 and 1, got 'nan'"),
        (("--tolerance", "x"), "Invalid value for '--tolerance': expected a number between 0 and 1, got 'x'"),
        (("--steps", "3"), "--set, --steps and --samples need a CONFIG"),
        (("--set", "seed=3"), "--set, --steps and --samples need a CONFIG"),
        (("--samples", "4"), "--set, --steps and --samples need a CONFIG"),
        (("--scan", "--plot", "a.png"), "--plot needs --scan and a CONFIG"),
        (("tiny.yaml", "--plot", "a.png"), "--plot needs --scan and a CONFIG"),
        (("--fast", "--scan"), "--scan looks at entries, of which --fast has none: drop one of them"),
        (("--fast", "--entries", "5"), "--fast looks at directions of all entries: drop --entries"),
        (("--against", "torch", "--fast"), "--against takes no differences: drop --fast and --scan"),
        (("--against", "torch", "--entries", "5"), "--against compares all entries: drop --entries"),
        (
            ("tiny.yaml", "--against", "torch", "--layers", "0"),
            "--against compares all layers of a CONFIG: drop --layers",
        ),
        (
            ("tiny.yaml", "--self-test"),
            "--self-test goes with --dtype, --entries, --seed, --tolerance and --json alone",
        ),
        (
            ("--self-test", "--samples", "3"),
            "--self-test goes with --dtype, --entries, --seed, --tolerance and --json alone",
        ),
        (
            ("--layers", "foo"),
            f"Invalid value for --layers: expected kinds among {', '.join(sorted([*Layer.kinds(), *Loss.kinds()]))}, "
            "got 'foo'",
        ),
        (
            ("tiny.yaml", "--layers", "0,7"),
            "Invalid value for --layers: expected numbers from 0 to 2 or kinds among dense, relu, got '7'",
        ),
        (
            ("tiny.yaml", "--layers", ""),
            "Invalid value for --layers: expected numbers from 0 to 2 or kinds among dense, relu, got ''",
        ),
    ],
)
def test_wrong_words(words: tuple[str, ...], message: str) -> None:
    result = nnjit("gradcheck", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    usage = "Usage: nnjit gradcheck [OPTIONS] [CONFIG]\nTry 'nnjit gradcheck --help' for help.\n\n"
    assert result.stderr == f"{usage}Error: {message}\n"


def test_a_config_that_is_not_there() -> None:
    result = nnjit("gradcheck", "none.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: none.yaml: cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    "module, words, message",
    [
        (
            "torch",
            ("--against", "torch"),
            "--against torch needs PyTorch, which is not installed; `pip install 'nnjit[peers]'` installs it",
        ),
        (
            "matplotlib",
            ("--scan", "--plot", "a.png"),
            "--plot needs matplotlib, which is not installed; `pip install 'nnjit[plot]'` installs it",
        ),
    ],
)
def test_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, module: str, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    result = nnjit("gradcheck", "tiny.yaml", *words)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"error: {message}\n")
