"""Array files: IDX (MNIST's format), .npy and .npz. An uncompressed array is memory-mapped, never loaded.

An IDX file is two zero bytes, a type code, the number of dimensions, each dimension as a big-endian 32-bit
number, then the numbers, big-endian too. Source: http://yann.lecun.com/exdb/mnist, "the IDX file format".
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nnjit.data.files import on_disk, reading, shown, unzipped
from nnjit.errors import DataError

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
NPY_MAGIC = b"\x93NUMPY"
BLOCK_BYTES = 1 << 24
FLOAT32_MAX = float(np.finfo(np.float32).max)
"""The largest number that data may hold, whatever the file's own dtype: beyond it, float32 has only infinity."""


@dataclass(frozen=True)
class Header:
    """What the head of an array file says of the numbers behind it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    """Whether the first index varies fastest."""

    @property
    def size(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def check_size(self, name: str, found: int) -> None:
        """Raise DataError unless `found` bytes follow the header."""
        if found != self.size:
            reason = "the file is cut short" if found < self.size else "the file is damaged"
            raise DataError(
                f"{name}: expected {self.size} bytes for {self.dtype.name} of shape {self.shape}, got {found}; {reason}"
            )

    def check_numbers(self, name: str) -> None:
        """Raise DataError for an array of text."""
        if self.dtype.kind in "US":
            raise DataError(f"{name}: expected an array of numbers, got text (dtype {self.dtype})")


def is_array(stream: io.BufferedReader) -> bool:
    """Whether the stream's next bytes are those of a .npy or IDX file."""
    magic = stream.peek(len(NPY_MAGIC))
    return magic.startswith(NPY_MAGIC) or magic.startswith(b"\0\0")


def read_header(stream: io.BufferedReader, name: str) -> Header:
    """The header at the head of `stream`, which stands at the first number afterwards. Raises DataError."""
    if not is_array(stream):
        start = stream.peek(4)[:4]
        raise DataError(f"{name}: expected an IDX or .npy file, got one that starts with {start!r}")
    npy = stream.peek(1)[:1] == NPY_MAGIC[:1]
    header = _npy_header(stream, name) if npy else _idx_header(stream, name)
    if not header.shape or 0 in header.shape:
        raise DataError(f"{name}: expected at least one sample, got an array of shape {header.shape}")
    if header.dtype.kind not in "biufUS":
        raise DataError(f"{name}: expected an array of numbers, got dtype {header.dtype}")
    return header


def _idx_header(stream: io.BufferedReader, name: str) -> Header:
    magic = stream.read(4)
    dimensions = magic[3] if len(magic) == 4 else 0
    sizes = stream.read(4 * dimensions)
    if len(magic) < 4 or len(sizes) < 4 * dimensions:
        raise DataError(f"{name}: the IDX header is cut short")
    if magic[2] not in IDX_TYPES:
        raise DataError(f"{name}: expected an IDX type code of 8, 9, 11, 12, 13 or 14, got {magic[2]}")
    shape = struct.unpack(f">{dimensions}I", sizes)
    return Header(shape, np.dtype(IDX_TYPES[magic[2]]), False)


def _npy_header(stream: io.BufferedReader, name: str) -> Header:
    try:
        version = np.lib.format.read_magic(stream)
        first = version == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (ValueError, SyntaxError, TokenError) as error:
        raise DataError(f"{name}: the .npy header is damaged or cut short ({error})") from error
    return Header(shape, dtype, fortran and len(shape) > 1)


def native(array: NDArray[Any]) -> NDArray[Any]:
    """The array as kernels take it: C order, native bytes, bool as uint8, floats of 32 or 64 bits."""
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        dtype = np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    array = np.ascontiguousarray(array, dtype)
    return array.view(np.uint8) if dtype.kind == "b" else array


@dataclass(frozen=True)
class ArrayFile:
    """An array on disk: an IDX or .npy file, or a member of an .npz archive."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """How messages name the array."""
        return shown(self.path) + (f"[{self.member!r}]" if self.member is not None else "")

    def header(self) -> Header:
        """What the array's header says; the numbers are not read. Raises DataError."""
        with self._open() as (stream, _, _):
            return read_header(stream, self.name)

    def read(self) -> NDArray[Any]:
        """The array, a view of a memory map where the file holds it as kernels take it. Raises DataError."""
        with self._open() as (stream, start, size):
            header = read_header(stream, self.name)
            order: Any = "F" if header.fortran else "C"
            if start is None:
                data = stream.read()
                header.check_size(self.name, len(data))
                return native(np.frombuffer(data, header.dtype).reshape(header.shape, order=order))
            offset = stream.tell()
            header.check_size(self.name, size - offset)
            mapped = np.memmap(on_disk(self.path), header.dtype, "r", start + offset, header.shape, order)
            return native(mapped)

    @contextmanager
    def _open(self) -> Iterator[tuple[io.BufferedReader, int | None, int]]:
        """The array's bytes, header first; where they start in the file, None if compressed; their count."""
        with reading(shown(self.path)), on_disk(self.path).open("rb") as file:
            if self.member is None:
                stream = unzipped(file)
                yield stream, (0 if stream is file else None), os.fstat(file.fileno()).st_size
                return
            with zipfile.ZipFile(file) as archive:
                info = archive.getinfo(f"{self.member}.npy")
                start = _start_of_stored(file, info) if info.compress_type == zipfile.ZIP_STORED else None
                with archive.open(info) as member:
                    yield io.BufferedReader(cast(io.RawIOBase, member)), start, info.file_size


def _start_of_stored(file: io.BufferedReader, info: zipfile.ZipInfo) -> int:
    """Where an uncompressed member's bytes begin: behind a header of 30 bytes, a name, an extra field."""
    file.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + int(name) + int(extra)


def npz_array(path: Path, key: str | None, usual: tuple[str, str]) -> ArrayFile | None:
    """The array `key` of an archive, or the one of the `usual` names that it holds; None if it holds neither.

    Raises DataError if the file is no archive or has no array `key`.
    """
    with reading(shown(path)), zipfile.ZipFile(on_disk(path)) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    if key is not None and key not in names:
        raise DataError(f"{shown(path)}: expected an array {key!r}, got {', '.join(map(repr, names))}")
    found = [name for name in ((key,) if key is not None else usual) if name in names]
    return ArrayFile(path, found[0]) if found else None


def check_finite(array: NDArray[Any], name: str, first: int = 0) -> None:
    """Raise DataError, naming row and entry, if `array` (N, ...) holds NaN, infinity or a number beyond FLOAT32_MAX.

    `first` is its first row's number. The array is read in blocks: a memory map may be larger than memory.
    """
    if array.dtype.kind != "f":
        return
    rows = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        block = array[start : start + rows]
        # Narrow floats have no larger numbers, and float16 cannot be compared with one that it does not have.
        fits = np.isfinite(block) if block.itemsize <= 4 else np.abs(block) <= FLOAT32_MAX
        if not fits.all():
            row, *entry = (int(i) for i in np.argwhere(~fits)[0])
            value = block[(row, *entry)]
            where = f"row {first + start + row} (from 0)" + (f", entry {tuple(entry)}" if entry else "")
            bound = f" of at most {FLOAT32_MAX:.2g}" if np.isfinite(value) else ""
            raise DataError(f"{name}: {where}: expected a finite number{bound}, got {value}")
