"""Opening data files: relative paths, gzip, standard input, and the errors that a system may answer with."""

from __future__ import annotations

import atexit
import functools
import gzip
import io
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from nnjit.errors import DataError

STANDARD_INPUT = Path("-")


def locate(base: Path, file: str) -> Path:
    """The path that `file` in a config in the folder `base` means; `-` stands for standard input.

    Raises DataError if there is no such file, with a remedy where `base` may be another folder than the user thought
    of: not the working directory, where paths from the command line start as well.
    """
    if file == "-":
        return STANDARD_INPUT
    path = base / file
    elsewhere = base != Path() and not Path(file).is_absolute()
    with reading(str(path), "; a path in a config is relative to the config's folder" if elsewhere else ""):
        path.stat()
    return path


def shown(path: Path) -> str:
    """How messages name `path`."""
    return "standard input" if path == STANDARD_INPUT else str(path)


@functools.cache
def _kept_standard_input() -> Path:
    """A temporary file with all of standard input, which is then read as often as a file."""
    descriptor, name = tempfile.mkstemp(prefix="nnjit-")
    atexit.register(os.unlink, name)
    with open(descriptor, "wb") as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
    return Path(name)


def on_disk(path: Path) -> Path:
    """`path` itself, or the file that keeps what came from standard input."""
    return _kept_standard_input() if path == STANDARD_INPUT else path


def unzipped(stream: io.BufferedReader) -> io.BufferedReader:
    """`stream`, decompressed if its first bytes say that it is gzipped."""
    if stream.peek(2)[:2] != b"\x1f\x8b":
        return stream
    return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=stream)))


@contextmanager
def reading(name: str, if_absent: str = "") -> Iterator[None]:
    """Turn what can go wrong while the file called `name` is opened and read into a DataError; `if_absent` is what it
    adds when there is no such file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{name}: no such file{if_absent}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise DataError(f"{name}: cannot be decompressed, the file is damaged or cut short ({error})") from error
    except UnicodeDecodeError as error:
        place = f"byte {error.object[error.start]:#04x}"
        raise DataError(f"{name}: expected text in UTF-8, got {place}; is it a table of numbers?") from None
    except OSError as error:
        raise DataError(f"{name}: {error.strerror}") from error


@contextmanager
def open_binary(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, decompressed if it is gzipped. Raises DataError for what the system refuses."""
    with reading(shown(path)), on_disk(path).open("rb") as stream:
        yield unzipped(stream)
