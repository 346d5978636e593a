"""What `nnjit doctor` prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import TINY, nnjit, without_compiling

BAD = ("--set", "optimizer.learning_rate=1e30")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a config in it."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    return tmp_path


def test_a_line_for_each_finding_and_one_for_its_remedy() -> None:
    result = nnjit("doctor", "tiny.yaml", "--threads", 1)
    assert (result.exit_code, without_compiling(result.stderr)) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "ok       classes: 4 samples of class '8' to 9 of class '0', 10 classes"
    assert lines[5:7] == [
        "warning  constant inputs: 12 of 64 numbers are the same in every training sample: 0, 8, 15, 16, 23 and 7 more",
        "         -> leave these columns out: they say nothing",
    ]
    assert {line.split()[0] for line in lines} == {"ok", "warning", "->"}


@pytest.mark.parametrize("words, count", [(BAD, "4 problems"), ((*BAD[:1], "data.divide=1e-4"), "4 problems")])
def test_problems_end_it_with_5(words: tuple[str, ...], count: str) -> None:
    result = nnjit("doctor", "tiny.yaml", *words)
    assert (result.exit_code, without_compiling(result.stderr)) == (5, f"error: tiny.yaml: {count} found\n")


def test_a_network_without_parameters() -> None:
    result = nnjit("doctor", "tiny.yaml", "--set", "data.classes=64", "--set", "model=[sigmoid]")
    assert result.exit_code == 5
    assert "problem  updates: the network has no parameters\n         -> add a dense" in result.stdout


def test_json() -> None:
    result = nnjit("doctor", "tiny.yaml", "--json", *BAD)
    assert (result.exit_code, result.stderr) == (5, "error: tiny.yaml: 4 problems found\n")
    found = json.loads(result.stdout)
    assert all(list(finding) == ["check", "verdict", "reason", "remedy"] for finding in found)
    lines = nnjit("doctor", "tiny.yaml", *BAD).stdout.splitlines()
    assert [f"{f['verdict']:<8} {f['check']}: {f['reason']}" for f in found] == [
        line for line in lines if "->" not in line.split()
    ]


def test_a_wrong_config_is_refused_as_everywhere() -> None:
    result = nnjit("doctor", "tiny.yaml", "--set", "model.0.units=none")
    assert (result.exit_code, result.stdout) == (2, "")
