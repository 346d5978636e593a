"""IDX, .npy and .npz files: every dtype, memory maps, and the whole message for every damage."""

import gzip
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnjit.data import arrays
from nnjit.data.arrays import IDX_TYPES
from nnjit.data.dataset import input_shape, load_dataset
from nnjit.data.section import DataSection
from nnjit.errors import DataError


def idx(array):
    """The bytes of an IDX file with `array`, whose dtype is one of the format's."""
    array = np.asarray(array)
    code = next(code for code, dtype in IDX_TYPES.items() if np.dtype(dtype) == array.dtype.newbyteorder(">"))
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return head + array.astype(IDX_TYPES[code]).tobytes()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path.relative_to(tmp_path)


def write(path, content):
    """Write bytes as they are, an array as .npy."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with path.open("wb") as file:
            np.save(file, content)


def load(folder, inputs, targets=None, labels=False, **section):
    """Load the files x and y, written from arrays or bytes."""
    write(folder / "x", inputs)
    source = {"inputs": "x", **({"rows": section.pop("rows")} if "rows" in section else {})}
    if targets is not None:
        write(folder / "y", targets)
        source["targets"] = "y"
    return load_dataset(DataSection.model_validate({"train": source, **section}), folder, labels=labels)


def is_mapped(array):
    while not isinstance(array, np.memmap) and isinstance(array.base, np.ndarray):
        array = array.base
    return isinstance(array, np.memmap)


@pytest.mark.parametrize("code", IDX_TYPES)
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
def test_every_idx_type(folder, code, zipped):
    dtype = np.dtype(IDX_TYPES[code]).newbyteorder("=")
    images = np.arange(-60 if dtype.kind != "u" else 0, 60).astype(dtype)[:60].reshape(5, 4, 3)
    content = idx(images)
    data = load(folder, gzip.compress(content) if zipped else content, np.arange(5), labels=True)
    assert data.shape == (1, 4, 3)
    assert data.train.inputs.dtype == dtype
    assert data.train.inputs.flags.c_contiguous and not data.train.inputs.flags.writeable
    np.testing.assert_array_equal(data.train.inputs, images.reshape(5, 1, 4, 3))
    assert is_mapped(data.train.inputs) == (not zipped and dtype.itemsize == 1)


@pytest.mark.parametrize("dtype", "u1 i1 i2 u4 i8 f4 f8".split())
def test_npy_is_memory_mapped(folder, dtype):
    data = load(folder, np.arange(12).astype(dtype).reshape(3, 4), np.arange(3.0))
    assert is_mapped(data.train.inputs) and is_mapped(data.train.targets)
    assert type(data.train.inputs) is np.ndarray
    assert not data.train.inputs.flags.writeable
    assert data.train.inputs.dtype == dtype
    assert data.train.inputs.tolist() == np.arange(12).reshape(3, 4).tolist()
    assert data.train.targets.tolist() == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.asfortranarray(np.arange(6.0).reshape(2, 3)), "f8"),
        (np.arange(6, dtype=">f4").reshape(2, 3), "f4"),
        (np.arange(6, dtype="f2").reshape(2, 3), "f4"),
        (np.arange(6, dtype=np.longdouble).reshape(2, 3), "f8"),
    ],
    ids=["fortran", "big-endian", "float16", "long double"],
)
def test_other_arrays_are_converted(folder, array, dtype):
    inputs = load(folder, array).train.inputs
    assert inputs.dtype == np.dtype(dtype) and inputs.flags.c_contiguous
    assert inputs.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_bools_count_as_bytes(folder):
    inputs = load(folder, np.array([[True, False]])).train.inputs
    assert inputs.dtype == np.uint8 and inputs.tolist() == [[1, 0]]


def test_shapes(folder):
    assert load(folder, np.zeros(4)).shape == (1,)
    assert load(folder, np.zeros((4, 6))).shape == (6,)
    assert load(folder, np.zeros((4, 6)), shape=[1, 2, 3]).train.inputs.shape == (4, 1, 2, 3)
    assert load(folder, np.zeros((4, 2, 3)), shape=[6]).train.inputs.shape == (4, 6)
    assert load(folder, np.zeros((4, 2, 3, 1)), shape=[1, 2, 3]).train.inputs.shape == (4, 1, 2, 3)
    assert load(folder, np.zeros((4, 3, 5, 5))).shape == (3, 5, 5)


def test_targets(folder):
    assert load(folder, np.zeros((2, 1)), idx(np.array([3, 4], "u1"))).train.targets.dtype == np.float32
    assert load(folder, np.zeros((2, 1)), np.zeros((2, 3, 4))).target_shape == (3, 4)
    named = load(folder, np.zeros((3, 1)), np.array(["b", "a", "b"]), labels=True)
    assert (named.classes, named.train.targets.tolist()) == (["a", "b"], [1, 0, 1])
    named = load(folder, np.zeros((3, 1)), np.array([b"b", b"a", b"b"]), labels=True)
    assert (named.classes, named.train.targets.tolist()) == (["a", "b"], [1, 0, 1])
    column = load(folder, np.zeros((2, 1)), np.array([[1.0], [0.0]]), labels=True, classes=["cat", "ant"])
    assert (column.classes, column.train.targets.tolist()) == (["cat", "ant"], [1, 0])
    assert load(folder, np.zeros((2, 1)), labels=True, classes=3).train.targets is None


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
@pytest.mark.parametrize(("inputs", "targets"), [("inputs", "targets"), ("x", "y")])
def test_npz(folder, save, inputs, targets):
    values = np.random.default_rng(0).normal(size=(5, 2, 3))
    save(folder / "a.npz", other=np.zeros(3), **{inputs: values, targets: np.arange(5)})
    section = DataSection.model_validate({"train": {"file": "a.npz"}})
    data = load_dataset(section, folder, labels=True)
    assert is_mapped(data.train.inputs) == (save is np.savez)
    np.testing.assert_array_equal(data.train.inputs[:, 0], values)
    assert data.train.targets.tolist() == list(range(5))
    assert input_shape(section, folder, labels=True) == (1, 2, 3)


def test_npz_arrays_by_name(folder):
    np.savez(folder / "a", p=np.ones((2, 3)), q=np.zeros(2))
    source = {"file": "a.npz", "inputs": "p", "targets": "q"}
    data = load_dataset(DataSection.model_validate({"train": source}), folder, labels=False)
    assert (data.shape, data.target_shape) == ((3,), (1,))
    source = {"file": "a.npz", "inputs": "p"}
    data = load_dataset(DataSection.model_validate({"train": source}), folder, labels=False)
    assert data.train.targets is None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"file": "a.npz"}, "a.npz: expected an array 'inputs' or 'x', got neither; name it with `inputs:`"),
        ({"file": "a.npz", "inputs": "z"}, "a.npz: expected an array 'z', got 'p', 'q', 'o'"),
        (
            {"file": "a.npz", "inputs": "p", "targets": "q"},
            "a.npz['q']: expected 2 targets, one per input, got 3",
        ),
        ({"file": "a.npz", "inputs": "o"}, "a.npz['o']: expected an array of numbers, got dtype object"),
        (
            {"file": "cut.npz", "inputs": "p"},
            "cut.npz: cannot be decompressed, the file is damaged or cut short (File is not a zip file)",
        ),
    ],
)
def test_wrong_archives(folder, source, message):
    np.savez(folder / "a", p=np.ones((2, 3)), q=np.zeros(3), o=np.array([None, {}]))
    with zipfile.ZipFile(folder / "a.npz", "a") as archive:
        archive.writestr("readme.txt", "not an array")
    (folder / "cut.npz").write_bytes((folder / "a.npz").read_bytes()[:-30])
    with pytest.raises(DataError) as caught:
        load_dataset(DataSection.model_validate({"train": source}), folder, labels=False)
    assert str(caught.value) == message


def test_a_damaged_member_of_an_archive(folder):
    np.savez_compressed(folder / "a", x=np.ones((200, 3)))
    content = bytearray((folder / "a.npz").read_bytes())
    content[60:64] = b"\xff\xff\xff\xff"
    (folder / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"^a\.npz: cannot be decompressed, the file is damaged or cut short \("):
        load_dataset(DataSection.model_validate({"train": {"file": "a.npz"}}), folder, labels=False)


NPY = b"\x93NUMPY\x01\x00"
IMAGES = idx(np.zeros((3, 2, 2), "u1"))
WRONG_INPUTS = [
    (b"", "x: expected an IDX or .npy file, got one that starts with b''"),
    (b"\x89PNG\r\n", "x: expected an IDX or .npy file, got one that starts with b'\\x89PNG'"),
    (b"\0\0\x08", "x: the IDX header is cut short"),
    (IMAGES[:10], "x: the IDX header is cut short"),
    (b"\0\0\x07\x01\0\0\0\1\0", "x: expected an IDX type code of 8, 9, 11, 12, 13 or 14, got 7"),
    (b"\0\0\x08\x00", "x: expected at least one sample, got an array of shape ()"),
    (idx(np.zeros((0, 2, 2), "u1")), "x: expected at least one sample, got an array of shape (0, 2, 2)"),
    (IMAGES[:-1], "x: expected 12 bytes for uint8 of shape (3, 2, 2), got 11; the file is cut short"),
    (IMAGES + b"0", "x: expected 12 bytes for uint8 of shape (3, 2, 2), got 13; the file is damaged"),
    (
        gzip.compress(IMAGES[:-1]),
        "x: expected 12 bytes for uint8 of shape (3, 2, 2), got 11; the file is cut short",
    ),
    (
        gzip.compress(IMAGES)[:-9],
        "x: cannot be decompressed, the file is damaged or cut short "
        "(Compressed file ended before the end-of-stream marker was reached)",
    ),
    (
        NPY + b"\x10\x00{'descr'",
        "x: the .npy header is damaged or cut short (EOF: reading array header, expected 16 bytes got 8)",
    ),
    (
        NPY + b"\x04\x00{(((",
        "x: the .npy header is damaged or cut short (('EOF in multi-line statement', (2, 0)))",
    ),
    (np.array([[1 + 2j]]), "x: expected an array of numbers, got dtype complex128"),
    (np.array([["a", "b"]]), "x: expected an array of numbers, got text (dtype <U1)"),
    (np.array([[1.0, 2.0], [3.0, np.nan]]), "x: row 1 (from 0), entry (1,): expected a finite number, got nan"),
    (
        np.array([[[1.0, 2.0], [np.inf, 4.0]]], "f4"),
        "x: row 0 (from 0), entry (1, 0): expected a finite number, got inf",
    ),
    (np.array([0.0, -np.inf]), "x: row 1 (from 0): expected a finite number, got -inf"),
]


@pytest.mark.parametrize(("content", "message"), WRONG_INPUTS, ids=[message[3:60] for _, message in WRONG_INPUTS])
def test_wrong_inputs(folder, content, message):
    with pytest.raises(DataError) as caught:
        load(folder, content)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("targets", "labels", "message"),
    [
        (np.arange(4), False, "y: expected 3 targets, one per input, got 4"),
        (idx(np.zeros(2, "u1")), True, "y: expected 3 targets, one per input, got 2"),
        (np.array(["a", "b", "c"]), False, "y: expected an array of numbers, got text (dtype <U1)"),
        (np.eye(3), True, "y: expected one class label per sample, shape (3,), got (3, 3)"),
        (np.array([0, 1, np.nan]), False, "y: row 2 (from 0): expected a finite number, got nan"),
        (
            np.array([0, 1, 5]),
            True,
            "y: row 2 (from 0): expected a label from 0 to 2, got '5'; correct the file or data.classes",
        ),
    ],
)
def test_wrong_targets(folder, targets, labels, message):
    with pytest.raises(DataError) as caught:
        load(folder, np.zeros((3, 2)), targets, labels, classes=3 if labels else None)
    assert str(caught.value) == message


def test_rows_are_a_view_whose_messages_count_from_the_file(folder):
    values = np.arange(20.0).reshape(10, 2)
    data = load(folder, values, np.arange(10), labels=True, rows=[4, 8])
    assert is_mapped(data.train.inputs)
    assert data.train.inputs.tolist() == values[4:8].tolist()
    assert data.train.targets.tolist() == [4, 5, 6, 7]
    assert len(data.classes) == 8
    values[8, 1] = np.nan
    load(folder, values, rows=[4, 8])
    with pytest.raises(DataError) as caught:
        load(folder, values, rows=[4, 9])
    assert str(caught.value) == "x: row 8 (from 0), entry (1,): expected a finite number, got nan"
    with pytest.raises(DataError) as caught:
        load(folder, values, np.arange(10), labels=True, rows=[4, 8], classes=6)
    assert str(caught.value) == (
        "y: row 6 (from 0): expected a label from 0 to 5, got '6'; correct the file or data.classes"
    )


def test_a_fault_in_a_later_block_has_its_own_row(folder, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 64)
    values = np.zeros((50, 2))
    load(folder, values)
    values[41, 0] = np.inf
    with pytest.raises(DataError) as caught:
        load(folder, values)
    assert str(caught.value) == "x: row 41 (from 0), entry (0,): expected a finite number, got inf"


@pytest.mark.parametrize("dtype", ["<f8", ">f8"])
def test_numbers_that_float32_does_not_have(folder, dtype):
    values = np.zeros((3, 2), dtype)
    values[0, 1] = -np.finfo(np.float32).max
    load(folder, values)
    values[2, 0] = -1e39
    with pytest.raises(DataError) as caught:
        load(folder, values)
    assert str(caught.value) == (
        "x: row 2 (from 0), entry (0,): expected a finite number of at most 3.4e+38, got -1e+39"
    )
    with pytest.raises(DataError) as caught:
        load(folder, np.zeros((3, 2)), np.array([0, 1e300, 0]))
    assert str(caught.value) == "y: row 1 (from 0): expected a finite number of at most 3.4e+38, got 1e+300"


def test_narrow_numbers_of_any_size(folder):
    load(folder, np.array([[np.finfo(np.float16).max]], np.float16))
    load(folder, np.array([[np.finfo(np.float32).max]], np.float32))
    with pytest.raises(DataError, match="expected a finite number, got inf"):
        load(folder, np.array([[np.inf]], np.float16))


@settings(max_examples=40, deadline=None)
@given(
    array=st.sampled_from([np.dtype(dtype).newbyteorder("=") for dtype in IDX_TYPES.values()]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=2, max_dims=4, max_side=5),
            elements={"min_value": -(2.0**127), "max_value": 2.0**127} if dtype.kind == "f" else None,
        )
    )
)
def test_idx_is_read_as_it_was_written(tmp_path_factory, array):
    data = load(tmp_path_factory.mktemp("idx"), idx(array))
    assert data.train.inputs.dtype == array.dtype
    assert data.train.inputs.tobytes() == array.tobytes()
