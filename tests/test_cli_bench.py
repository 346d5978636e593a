"""`nnjit bench`: its page, its JSON, its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import TINY, nnjit
from numba import njit

from nnjit.bench import limits, report
from nnjit.cli import bench as command
from nnjit.kernels.threads import get_threads, set_threads

ABSENT = TINY.replace("/train.csv", "/absent.csv").replace("divide: 16", "classes: 10\n  shape: [64]")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's limits from little work."""
    monkeypatch.setattr(limits, "ROUNDS", 10)
    monkeypatch.setattr(limits.bandwidth, "__defaults__", (2**20,))
    monkeypatch.setattr(command, "PEAK_SECONDS", 0.01)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def measured(*arguments: Any) -> dict[str, Any]:
    result = nnjit("bench", *arguments, "--seconds", 0.02, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_json(tiny: Path) -> None:
    found = measured(tiny)
    assert found.keys() == {
        "samples_per_second", "step_seconds", "gflops", "batch_size", "precision", "threads", "compile_seconds",
        "peak_gflops", "peak_memory_bytes", "buffer_bytes", "compiled", "made_up_data", "layers", "rest",
    }  # fmt: skip
    assert found["samples_per_second"] == pytest.approx(20 / found["step_seconds"])
    assert (found["batch_size"], found["precision"], found["threads"]) == (20, "float32", get_threads())
    assert found["peak_memory_bytes"] > found["buffer_bytes"] > 0
    assert found["made_up_data"] is False
    first, last = found["layers"]
    assert (first["position"], first["kind"], first["shape"]) == (0, "dense+relu", [12])
    assert first.keys() == {"position", "kind", "shape", "forward", "gradient_to_input", "gradient_to_weights"}
    assert first["gradient_to_input"] is None
    assert last["gradient_to_input"].keys() == {"seconds", "gflops", "share"}
    assert found["rest"].keys() == {"batch", "loss", "update", "calls"}


def test_batch_threads_and_overrides(tiny: Path) -> None:
    before = get_threads()
    try:
        found = measured(tiny, "--batch", 100, "--threads", 1, "--set", "train.precision=float64")
    finally:
        set_threads(before)
    assert (found["batch_size"], found["threads"], found["precision"]) == (100, 1, "float64")


def test_made_up_data(tmp_path: Path) -> None:
    path = tmp_path / "absent.yaml"
    path.write_text(ABSENT)
    assert measured(path)["made_up_data"] is True


def test_one_sample_is_not_plural(tiny: Path) -> None:
    lines = nnjit("bench", tiny, "--batch", 1, "--seconds", 0.02).stdout.splitlines()
    assert lines[1].startswith("batch      1 sample of float32, ")


def machine_reaches(gflops: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnjit.bench.report.peak_gflops", lambda dtype, seconds: gflops)


def test_rates_above_the_machines_are_explained(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_reaches(1e-9, monkeypatch)
    lines = nnjit("bench", tiny, "--seconds", 0.02).stdout.splitlines()
    assert [line.split()[0] for line in lines[2:6]] == ["step", "rate", "counted", "compiling"]
    assert "Winograd" in lines[4] and "padding" in lines[4]


def test_a_peak_of_memory_that_the_compiler_had_a_part_in(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels come from the cache or another test, unless something more is compiled before the peak is taken."""
    nnjit("bench", tiny, "--seconds", 0.02)
    assert measured(tiny)["compiled"] is False
    assert "compiler" not in nnjit("bench", tiny, "--seconds", 0.02).stdout
    bind = report.bind_workload

    def bind_and_compile(*arguments: Any) -> Any:
        njit(lambda: 0)()
        return bind(*arguments)

    monkeypatch.setattr(report, "bind_workload", bind_and_compile)
    assert measured(tiny)["compiled"] is True
    lines = nnjit("bench", tiny, "--seconds", 0.02).stdout.splitlines()
    (memory,) = (line for line in lines if line.startswith("memory "))
    assert memory.endswith(" of it the step's, the compiler at work included; a second run tells it without")


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_reaches(1e9, monkeypatch)
    path = tmp_path / "absent.yaml"
    path.write_text(ABSENT)
    result = nnjit("bench", path, "--seconds", 0.02)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["data", "batch", "step", "rate", "compiling", "memory"]
    assert lines[0].startswith("data       random, since ") and lines[0].endswith("absent.csv is not there")
    assert lines[1].startswith("batch      20 samples of float32, ")
    assert lines[6] == ""
    assert lines[7].split() == ("layer output forward GFLOP/s % to input GFLOP/s % to weights GFLOP/s %".split())
    assert [line.split()[:2] for line in lines[8:10]] == [["0", "dense+relu"], ["2", "dense"]]
    assert [line.split()[0] for line in lines[10:]] == ["batch", "loss", "update", "calls"]


def test_a_shape_that_nothing_tells(tmp_path: Path) -> None:
    path = tmp_path / "absent.yaml"
    path.write_text(ABSENT.replace("\n  shape: [64]", ""))
    result = nnjit("bench", path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {path}: data.shape: expected the shape of one input, since ")
    assert result.stderr.endswith("absent.csv is not there to tell; --set data.shape=[10], say, measures with "
                                  "made-up data\n")  # fmt: skip


def test_peak() -> None:
    result = nnjit("bench", "--peak", "--seconds", 0.01, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)["limits"]
    assert [each["threads"] for each in found] == sorted({1, get_threads()})
    assert found[0].keys() == {"threads", "peak_gflops", "bandwidth"}
    assert found[0]["bandwidth"].keys() == {"read", "write", "copy"}


def test_peak_in_lines() -> None:
    result = nnjit("bench", "--peak", "--seconds", 0.01)
    lines = result.stdout.splitlines()
    assert len(lines) == len({1, get_threads()})
    assert lines[0].startswith("1 thread: ") and " GFLOP/s; memory, GB/s: read " in lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected either a CONFIG or --peak"),
        (["x.yaml", "--peak"], "expected either a CONFIG or --peak"),
        (["--peak", "--batch", 3], "--batch and --set need a CONFIG"),
        (["x.yaml", "--batch", "x"], "Invalid value for '--batch': 'x' is not a valid integer."),
        (["x.yaml", "--batch", "0"], "Invalid value for '--batch': 0 is not in the range x>=1."),
        (["--peak", "--set", "seed=1"], "--batch and --set need a CONFIG"),
        (["--peak", "--seconds", "nan"], "Invalid value for '--seconds': expected a finite number, got 'nan'"),
        (["--peak", "--seconds", "inf"], "Invalid value for '--seconds': expected a finite number, got 'inf'"),
        (["--peak", "--seconds", "0"], "Invalid value for '--seconds': 0.0 is not in the range x>0."),
    ],
)
def test_wrong_usage(arguments: list[Any], message: str) -> None:
    result = nnjit("bench", *arguments)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"Error: {message}"
