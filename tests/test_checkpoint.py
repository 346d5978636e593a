"""Checkpoints: what goes in comes out, files of others and damaged ones are refused, a failed write loses nothing."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, safe_open, save_file

from nnjit import checkpoint as module
from nnjit.checkpoint import Checkpoint, Progress, digest, read_checkpoint, write_atomically, write_checkpoint
from nnjit.errors import DataError, NnjitError


def example() -> Checkpoint:
    rng = np.random.default_rng(1)
    parameters = {
        "layers.0.weight": rng.standard_normal((3, 2, 5, 5)).astype(np.float32),
        "layers.0.bias": rng.standard_normal(3).astype(np.float32),
        "layers.3.weight": rng.standard_normal((4, 27)).astype(np.float32).T.copy().T,  # not C-contiguous
    }
    return Checkpoint(
        parameters=parameters,
        optimizer={"velocity": {name: rng.standard_normal(a.shape) for name, a in parameters.items()}},
        scaling={"input_shift": np.array([0.1]), "input_factor": np.array([1 / 3])},
        config={"seed": 3, "model": [{"type": "relu"}], "name": "Größe"},
        input_shape=(2, 9, 9),
        classes=["cat", "Hündin"],
        samples=1437,
        progress=Progress(2, 5, 131, [1.25, 0.1, 300.0, 0.1], 1.5, 1, 0.3),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, example())
    return path


def test_what_is_written_is_read(path: Path) -> None:
    expected, found = example(), read_checkpoint(path)
    groups = [(expected.parameters, found.parameters), (expected.scaling, found.scaling)]
    groups.append((expected.optimizer["velocity"], found.optimizer["velocity"]))
    assert found.optimizer.keys() == {"velocity"}
    for written, read in groups:
        assert written.keys() == read.keys()
        for name, array in written.items():
            assert read[name].dtype == array.dtype
            assert_array_equal(read[name], array)
    for name in ("config", "input_shape", "classes", "samples", "progress"):
        assert getattr(found, name) == getattr(expected, name)


def test_an_optimizer_without_state_and_no_classes(tmp_path: Path) -> None:
    written = example()
    written.optimizer, written.classes = {}, None
    write_checkpoint(tmp_path / "x", written)
    found = read_checkpoint(tmp_path / "x")
    assert (found.optimizer, found.classes) == ({}, None)


def test_any_program_that_reads_safetensors_reads_it(path: Path) -> None:
    tensors = load_file(path)
    assert {name: array.shape for name, array in tensors.items() if name.startswith("layers.")} == {
        "layers.0.weight": (3, 2, 5, 5),
        "layers.0.bias": (3,),
        "layers.3.weight": (4, 27),
    }
    assert_array_equal(tensors["optimizer.velocity.layers.0.bias"], example().optimizer["velocity"]["layers.0.bias"])
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    assert metadata["format"] == "1"
    assert json.loads(metadata["nnjit"])["progress"]["step"] == 131


def test_equal_states_are_equal_files(path: Path) -> None:
    for _ in range(5):
        write_checkpoint(path.with_name("again"), example())
        assert path.with_name("again").read_bytes() == path.read_bytes()


def test_digest_tells_values_shapes_names_and_dtypes_apart() -> None:
    base = np.arange(6, dtype=np.float32)
    digests = [
        digest(arrays)
        for arrays in (
            {"a": base},
            {"a": base + 1},
            {"a": base.reshape(2, 3)},
            {"b": base},
            {"a": base.view(np.int32)},
            {"a": base, "b": base},
        )
    ]
    assert len(set(digests)) == len(digests)
    assert digest({"a": base, "b": base}) == digest({"b": base.copy(), "a": base})


# Files that cannot be used


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_checkpoint(path)
    return str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    assert refusal(path) == f"{path}: expected a checkpoint, found no such file"
    assert refusal(tmp_path) == f"{tmp_path}: expected a checkpoint, found a folder"


def test_a_file_cut_short_anywhere(path: Path) -> None:
    whole = path.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        message = refusal(path)
        assert message.startswith(f"{path}: expected a checkpoint, got a damaged or incomplete file (")
        assert message.endswith(")")


def test_a_changed_byte_is_noticed(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    assert refusal(path) == (
        f"{path}: expected a checkpoint, got damaged contents "
        "(the tensors do not have the digest that was written with them)"
    )


def rewrite(path: Path, metadata: dict[str, str] | None) -> None:
    save_file(load_file(path), path, metadata)


def test_a_safetensors_file_of_another_program(path: Path) -> None:
    rewrite(path, None)
    assert refusal(path) == f"{path}: expected a checkpoint of nnjit, got a safetensors file without its metadata"


def test_a_checkpoint_of_another_format(path: Path) -> None:
    rewrite(path, {"format": "2", "nnjit": "{}"})
    assert refusal(path) == (
        f"{path}: expected checkpoint format 1, got 2; read it with the version of nnjit that wrote it"
    )


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        ("{}", "'digest'"),
        ("[]", "list indices must be integers or slices, not str"),
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    ],
)
def test_metadata_that_lacks_something(path: Path, facts: str, cause: str) -> None:
    rewrite(path, {"format": "1", "nnjit": facts})
    message = refusal(path)
    assert message.startswith(f"{path}: expected a checkpoint, got damaged contents (")
    if facts != "{":  # the wording of that one is Python's own
        assert message == f"{path}: expected a checkpoint, got damaged contents ({cause})"


# Writing


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    path, usual = tmp_path / "file", tmp_path / "usual"
    write_atomically(path, b"")
    usual.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_a_full_disk_leaves_the_old_file(path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module.os, step, refuse)
        with pytest.raises(NnjitError) as caught:
            write_checkpoint(path, example())
    assert str(caught.value) == (
        f"{path}: cannot be written: No space left on device; the files of the run are as they were"
    )
    assert caught.value.exit_code == 1
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "none" / "last.safetensors"
    with pytest.raises(NnjitError) as caught:
        write_checkpoint(path, example())
    assert str(caught.value) == (
        f"{path}: cannot be written: No such file or directory; the files of the run are as they were"
    )
