"""Checkpoints: everything that a resumed run, an evaluation or a prediction needs, in one safetensors file.

Tensors are named and shaped as people expect: `layers.0.weight` (out, in) or (out, in, kh, kw), `layers.0.bias`,
`optimizer.velocity.layers.0.weight`, `scaling.input_shift`. The header's metadata holds `format` (a number) and `nnjit`
(JSON: config, shapes, classes, progress). Nothing is pickled, so a checkpoint cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nnjit.errors import DataError, NnjitError

FORMAT = "1"


@dataclass
class Progress:
    """How far a run is: what a resumed run must know beside its arrays."""

    epoch: int = 0
    """Completed epochs."""
    batch: int = 0
    """Completed batches of the epoch after those."""
    step: int = 0
    """Completed steps of the whole run."""
    totals: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    """Sums over the samples of the running epoch (`steps.TrainingStep.totals`)."""
    seconds: float = 0.0
    """Time spent training in the running epoch."""
    best_epoch: int = 0
    """The epoch of the best loss so far, 0 before there is one."""
    best_loss: float | None = None
    """That loss: on the validation split, or on the training split if there is none."""
    learning_rates: list[list[float]] = field(default_factory=list)
    """[completed steps, learning rate from there on] for the start and every change, oldest first."""


@dataclass
class Checkpoint:
    """The contents of a checkpoint."""

    parameters: dict[str, NDArray[Any]]
    """By name, in conventional shapes."""
    optimizer: dict[str, dict[str, NDArray[Any]]]
    """The optimizer's arrays by name (`velocity`), each by parameter."""
    scaling: dict[str, NDArray[np.float64]]
    """input_shift, input_factor, target_shift, target_factor."""
    config: dict[str, Any]
    """The resolved config."""
    input_shape: tuple[int, ...]
    classes: list[str] | None
    samples: int
    """Samples in the training split, by which a resumed run recognises its data."""
    progress: Progress


def digest(parameters: Mapping[str, NDArray[Any]]) -> str:
    """A hash of names, shapes, dtypes and bytes, equal just when the parameters are."""
    total = hashlib.sha256()
    for name in sorted(parameters):
        array = np.ascontiguousarray(parameters[name])
        total.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        total.update(array.tobytes())
    return total.hexdigest()[:16]


def write_atomically(path: Path, contents: bytes) -> None:
    """Replace a file as a whole: written beside it, flushed to the disk, renamed; on failure the old file stays.

    Raises NnjitError when the system refuses (no space, no permission).
    """
    temporary: str | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        raise NnjitError(
            f"{path}: cannot be written: {error.strerror}; the files of the run are as they were"
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint as a whole. Raises NnjitError when the system refuses."""
    tensors = dict(checkpoint.parameters)
    for name, arrays in checkpoint.optimizer.items():
        tensors.update({f"optimizer.{name}.{parameter}": array for parameter, array in arrays.items()})
    tensors.update({f"scaling.{name}": array for name, array in checkpoint.scaling.items()})
    facts = {
        "config": checkpoint.config,
        "input_shape": checkpoint.input_shape,
        "classes": checkpoint.classes,
        "samples": checkpoint.samples,
        "progress": asdict(checkpoint.progress),
        "digest": digest(tensors),
    }
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_atomically(path, _in_order(save(tensors, {"format": FORMAT, "nnjit": json.dumps(facts)})))


def _in_order(contents: bytes) -> bytes:
    """A safetensors file with its header's keys sorted: safetensors writes metadata in random order, but one state of a
    run has to give one sequence of bytes. The header is JSON behind its length, padded to whole groups of 8 bytes."""
    size = int.from_bytes(contents[:8], "little")
    header = json.dumps(json.loads(contents[8 : 8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + contents[8 + size :]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises DataError when the file is missing, cut short, damaged, or not a checkpoint of this format.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected a checkpoint, found {'a folder' if path.is_dir() else 'no such file'}")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: expected a checkpoint, got a damaged or incomplete file ({error})") from None
    if "nnjit" not in metadata:
        raise DataError(f"{path}: expected a checkpoint of nnjit, got a safetensors file without its metadata")
    if metadata.get("format") != FORMAT:
        raise DataError(
            f"{path}: expected checkpoint format {FORMAT}, got {metadata.get('format')}; "
            "read it with the version of nnjit that wrote it"
        )
    try:
        return _assemble(tensors, json.loads(metadata["nnjit"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: expected a checkpoint, got damaged contents ({error})") from None


def _assemble(tensors: dict[str, NDArray[Any]], facts: dict[str, Any]) -> Checkpoint:
    """A checkpoint from the parts of its file. Raises KeyError, TypeError or ValueError when they do not fit."""
    if digest(tensors) != facts["digest"]:
        raise ValueError("the tensors do not have the digest that was written with them")
    optimizer: dict[str, dict[str, NDArray[Any]]] = {}
    scaling: dict[str, NDArray[np.float64]] = {}
    parameters: dict[str, NDArray[Any]] = {}
    for name, array in tensors.items():
        if name.startswith("optimizer."):
            _, state, parameter = name.split(".", 2)
            optimizer.setdefault(state, {})[parameter] = array
        elif name.startswith("scaling."):
            scaling[name.removeprefix("scaling.")] = array
        else:
            parameters[name] = array
    known = {item.name for item in fields(Progress)}
    return Checkpoint(
        parameters=parameters,
        optimizer=optimizer,
        scaling=scaling,
        config=facts["config"],
        input_shape=tuple(facts["input_shape"]),
        classes=facts["classes"],
        samples=facts["samples"],
        progress=Progress(**{name: value for name, value in facts["progress"].items() if name in known}),
    )
