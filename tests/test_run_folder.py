"""A run's folder: made once, never overwritten, its metrics a line per epoch that ends with a checkpoint."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from nnjit import run_folder as module
from nnjit.errors import ConfigError, NnjitError
from nnjit.run_folder import RunFolder


def test_a_new_folder_holds_the_config(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    folder.create("seed: 1\n")
    assert folder.config.read_text() == "seed: 1\n"
    assert [entry.name for entry in folder.path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("as_file", [False, True])
def test_what_is_there_is_never_overwritten(tmp_path: Path, as_file: bool) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.write_text("mine") if as_file else folder.path.mkdir()
    with pytest.raises(ConfigError) as caught:
        folder.create("seed: 1\n")
    assert str(caught.value) == (
        f"{folder.path}: expected a new folder, but it exists and a run never overwrites one; "
        "add --resume to go on with its run, or choose another --out"
    )
    assert folder.path.read_text() == "mine" if as_file else list(folder.path.iterdir()) == []


def refuse(*arguments: Any, **settings: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(NnjitError) as caught:
        RunFolder(tmp_path / "run").create("")
    assert str(caught.value) == f"{tmp_path / 'run'}: cannot be made: No space left on device"


def test_no_folder_is_left_when_its_config_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(NnjitError):
        RunFolder(tmp_path / "run").create("")
    assert list(tmp_path.iterdir()) == []


def test_records_are_added_line_by_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for epoch in (1, 2):
        folder.append({"epoch": epoch, "train_loss": 1 / epoch})
    lines = folder.metrics.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"epoch": 1, "train_loss": 1.0},
        {"epoch": 2, "train_loss": 0.5},
    ]


def test_a_record_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    monkeypatch.setattr(module, "open", refuse, raising=False)
    with pytest.raises(NnjitError) as caught:
        folder.append({"epoch": 1})
    assert str(caught.value) == f"{folder.metrics}: cannot be written: No space left on device"


def test_records_after_the_last_checkpoint_are_dropped(tmp_path: Path) -> None:
    """Those of an epoch whose checkpoint was not written any more, and a line that was cut off."""
    folder = RunFolder(tmp_path)
    folder.keep_epochs(3)
    assert not folder.metrics.exists()
    for epoch in (1, 2, 3):
        folder.append({"epoch": epoch})
    with folder.metrics.open("a") as file:
        file.write('{"epoch": 2, "tr')
    folder.keep_epochs(2)
    assert folder.metrics.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    before = folder.metrics.stat().st_ino
    folder.keep_epochs(2)
    assert folder.metrics.stat().st_ino == before
