"""Inputs as a stream of blocks, from files and from pipes."""

import gzip
import io
import subprocess
import sys

import numpy as np
import pytest

from nnjit.data.inputs import read_inputs
from nnjit.errors import DataError


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture
def blocks(tmp_path, monkeypatch):
    """All blocks of a file with the given bytes, read by name and from standard input."""
    monkeypatch.chdir(tmp_path)

    def blocks(content, shape, **options):
        content = content.encode() if isinstance(content, str) else content
        (tmp_path / "f").write_bytes(content)
        named = list(read_inputs("f", shape, **options))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        piped = list(read_inputs("-", shape, **options))
        assert [block.tolist() for block in piped] == [block.tolist() for block in named]
        return named

    return blocks


VALUES = np.arange(30.0).reshape(5, 6)


@pytest.mark.parametrize(
    ("content", "dtype"),
    [
        ("\n".join(",".join(map(str, row)) for row in VALUES), "f4"),
        ("a,b,c,d,e,f\n" + "\n".join(",".join(map(str, row)) for row in VALUES), "f4"),
        (npy(VALUES), "f8"),
        (npy(VALUES.astype("u1")), "u1"),
        (gzip.compress(npy(VALUES.astype(">i2").reshape(5, 2, 3))), "i2"),
    ],
    ids=["csv", "csv with a header", "npy", "bytes", "gzip, big-endian, images"],
)
def test_blocks(blocks, content, dtype):
    found = blocks(content, (1, 2, 3), block_rows=2)
    assert [len(block) for block in found] == [2, 2, 1]
    assert {block.dtype for block in found} == {np.dtype(dtype)}
    np.testing.assert_array_equal(np.concatenate(found), VALUES.reshape(5, 1, 2, 3))


def test_a_fortran_array_comes_in_one_block(blocks):
    [found] = blocks(npy(np.asfortranarray(VALUES)), (6,), block_rows=2)
    np.testing.assert_array_equal(found, VALUES)


def test_a_header_can_be_told(blocks):
    assert len(blocks("1,2\n3,4\n", (2,))[0]) == 2
    assert len(blocks("1,2\n3,4\n", (2,), header=True)[0]) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "f: expected a table, got an empty file"),
        ("1,2,3\n", "f:1: expected 2 columns for inputs of shape (2,), got 3; leave the target column out"),
        (
            "1,abc\n3,4\n",
            "f:1: column 1 (from 0): expected a header or numbers, got both: 'abc' is no number, others are; "
            "a header holds no numbers",
        ),
        ("1\n", "f:1: expected 2 columns for inputs of shape (2,), got 1"),
        ("1,2\n3,4\n5,x\n", "f:3: column 1 (from 0): expected a number, got 'x'"),
        ("a,b\n3,4\n5,inf\n", "f:3: column 'b': expected a finite number of at most 3.4e+38, got 'inf'"),
        (npy(VALUES), "f: expected inputs of shape (2,), as the network takes: 2 numbers, got 6 of shape (6,)"),
        (
            npy(VALUES.reshape(15, 2))[:-1],
            "f: expected 240 bytes for float64 of shape (15, 2), got 239; the file is cut short",
        ),
        (
            npy(VALUES.reshape(15, 2)) + b"0",
            "f: expected 240 bytes for float64 of shape (15, 2), got 241; the file is damaged",
        ),
        (npy(np.array([["a", "b"]])), "f: expected an array of numbers, got text (dtype <U1)"),
        (
            npy(np.array([[1, 2], [3, 1e39]])),
            "f: row 1 (from 0), entry (1,): expected a finite number of at most 3.4e+38, got 1e+39",
        ),
        (npy(np.array([[1, 2], [3, np.nan]])), "f: row 1 (from 0), entry (1,): expected a finite number, got nan"),
    ],
)
def test_wrong_inputs(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        list(read_inputs("f", (2,), block_rows=1))
    assert str(caught.value) == message


def test_blocks_before_the_fault_come_through(tmp_path):
    (tmp_path / "f").write_text("1\n2\n3\nx\n")
    found = read_inputs(tmp_path / "f", (1,), block_rows=2)
    assert next(found).tolist() == [[1], [2]]
    with pytest.raises(DataError):
        next(found)


def test_an_endless_pipe_streams():
    code = (
        "from nnjit.data.inputs import read_inputs\n"
        "for block in read_inputs('-', (2,), block_rows=4): print(int(block.sum()), flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        for count in (1, 2):
            process.stdin.write(b"1,2\n" * 4)
            process.stdin.flush()
            assert process.stdout.readline() == b"12\n", f"block {count} did not come at once"
        process.stdin.close()
    assert process.returncode == 0
