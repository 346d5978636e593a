"""CSV tables: every way to write one that is read, and the whole message for every one that is not."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnjit.data import rows, table
from nnjit.data.dataset import load_dataset
from nnjit.data.section import DataSection
from nnjit.errors import DataError, NnjitError


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a table given as text or bytes, from the file x.csv of the working folder."""
    monkeypatch.chdir(tmp_path)

    def load(content, labels=False, classes=None, **source):
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / "x.csv").write_bytes(data)
        section = DataSection.model_validate({"train": {"file": "x.csv", **source}, "classes": classes})
        return load_dataset(section, tmp_path.relative_to(tmp_path), labels=labels)

    return load


@pytest.mark.parametrize(
    "content",
    [
        "a,b,y\n1,2,3\n4,5,6\n",
        "1,2,3\n4,5,6\n",
        "1,2,3\n4,5,6",
        "\ufeffa,b,y\r\n1,2,3\r\n4,5,6\r\n\r\n\n",
        '"a";"b, c";"y"\n"1";2.0;3\n4;5e0;6\n',
        "1\t 2\t3 \n+4\t5.\t6\n",
        gzip.compress(b"a,b,y\n1,2,3\n4,5,6\n"),
    ],
    ids=["header", "plain", "no newline at the end", "bom, crlf, blank end", "quotes", "tabs", "gzip"],
)
def test_ways_to_write_a_table(load, content):
    data = load(content)
    assert data.train.inputs.dtype == data.train.targets.dtype == np.float32
    assert data.train.inputs.tolist() == [[1, 2], [4, 5]]
    assert data.train.targets.tolist() == [[3], [6]]
    assert (data.shape, data.target_shape, data.classes) == ((2,), (1,), None)


@pytest.mark.parametrize(
    ("target", "inputs", "targets"),
    [
        ("b", [[1, 3], [4, 6]], [[2], [5]]),
        (0, [[2, 3], [5, 6]], [[1], [4]]),
        (["y", "a"], [[2], [5]], [[3, 1], [6, 4]]),
        ([-1, 0], [[2], [5]], [[3, 1], [6, 4]]),
        (None, [[1, 2, 3], [4, 5, 6]], None),
    ],
)
def test_target_columns(load, target, inputs, targets):
    train = load("a,b,y\n1,2,3\n4,5,6\n", target=target).train
    assert train.inputs.tolist() == inputs
    assert (None if train.targets is None else train.targets.tolist()) == targets


@pytest.mark.parametrize("target", [0, 1, 2])
def test_labels_may_stand_in_any_column(load, target):
    lines = [["1", "2"], ["3", "4"], ["5", "6"]]
    for line, name in zip(lines, ("no", "yes", "no"), strict=True):
        line.insert(target, name)
    data = load("\n".join(map(",".join, lines)), labels=True, target=target)
    assert data.train.inputs.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert data.train.targets.tolist() == [0, 1, 0]
    assert data.train.targets.dtype == np.int32
    assert data.classes == ["no", "yes"]
    assert data.target_shape == ()


@pytest.mark.parametrize(
    ("cells", "classes", "names", "labels"),
    [
        ("2 0 1", None, ["0", "1", "2"], [2, 0, 1]),
        ("2.0 0.000e+00 1", None, ["0", "1", "2"], [2, 0, 1]),
        ("2 0", 4, ["0", "1", "2", "3"], [2, 0]),
        ("cat ant", None, ["ant", "cat"], [1, 0]),
        ("cat ant", ["cat", "ant", "bee"], ["cat", "ant", "bee"], [0, 1]),
        ("1 0", ["cat", "ant"], ["cat", "ant"], [1, 0]),
        ("3 7", ["7", "3"], ["7", "3"], [1, 0]),
    ],
)
def test_class_names(load, cells, classes, names, labels):
    data = load("".join(f"1,{cell}\n" for cell in cells.split()), labels=True, classes=classes)
    assert data.classes == names
    assert data.train.targets.tolist() == labels


WRONG = [
    ("", {}, "x.csv: expected a table, got an empty file"),
    ("a,b\n", {}, "x.csv: expected at least one sample, got a header alone"),
    ("a,b\n1,2\n1,abc\n", {}, "x.csv:3: column 'b': expected a number, got 'abc'"),
    ("1,2\n1,\n", {}, "x.csv:2: column 1 (from 0): expected a number, got ''"),
    ("1,2\n1,1_0\n", {}, "x.csv:2: column 1 (from 0): expected a number, got '1_0'"),
    ("1,2\n1,nan\n", {}, "x.csv:2: column 1 (from 0): expected a finite number of at most 3.4e+38, got 'nan'"),
    ("1,2\n-1e39,1\n", {}, "x.csv:2: column 0 (from 0): expected a finite number of at most 3.4e+38, got '-1e39'"),
    ("a,b\n1,2\n1,2,3\n", {}, "x.csv:3: expected 2 columns, got 3"),
    ("a,b,c\n1,2\n3,4\n", {}, "x.csv:2: expected 3 columns, got 2"),
    ("a,b\n1,2\n\n\n3,4\n", {}, "x.csv:3: expected a sample, got a blank line"),
    (
        "1.5,abc,3\n1,2,3\n",
        {},
        "x.csv:1: column 1 (from 0): expected a header or numbers, got both: 'abc' is no number, others are; "
        "set `header: true` or `header: false`",
    ),
    ("height,y\n1,2\n", {"header": False}, "x.csv:1: column 0 (from 0): expected a number, got 'height'"),
    ("height,y\n1,2\n", {"target": "yy"}, "x.csv:1: expected one column 'yy', got 0; did you mean 'y'?"),
    ("y,y\n1,2\n", {"target": "y"}, "x.csv:1: expected one column 'y', got 2"),
    ("1,2\n", {"target": 2}, "x.csv:1: expected a target column from 0 to 1, got 2"),
    ("1\n2\n", {}, "x.csv:1: expected input columns beside the target, got 1 columns in all"),
    ("1,2\n", {"rows": [0, 2]}, "x.csv: expected at least 2 samples for rows [0, 2], got 1"),
    (b"a,b\n1,\xff\n", {}, "x.csv: expected text in UTF-8, got byte 0xff; is it a table of numbers?"),
    (b"9" * 140_000, {}, "x.csv:1: expected a line of a table (field larger than field limit (131072))"),
    (
        gzip.compress(b"1,2\n" * 1000)[:-20],
        {},
        "x.csv: cannot be decompressed, the file is damaged or cut short "
        "(Compressed file ended before the end-of-stream marker was reached)",
    ),
    ("a,b,c\n1,2,3\n", {"labels": True, "target": [0, 1]}, "x.csv: expected one target column of class labels, got 2"),
    (
        "a,y\n1,0\n1,12\n",
        {"labels": True, "classes": 10},
        "x.csv:3: column 'y': expected a label from 0 to 9, got '12'; correct the file or data.classes",
    ),
    (
        "a,y\n1,0\n1,-1\n",
        {"labels": True},
        "x.csv:3: column 'y': expected a label from 0 to 0, got '-1'; correct the file or data.classes",
    ),
    (
        "a,y\n1,123456789\n",
        {"labels": True},
        "x.csv:2: column 'y': expected a label from 0 to 65535, got '123456789'; correct the file or data.classes",
    ),
    (
        "a,y\n1,ant\n1,dog\n1,bee\n",
        {"labels": True, "classes": ["ant", "dog"], "rows": [1, 3]},
        "x.csv:4: column 'y': expected one of the classes 'ant', 'dog', got 'bee'; correct the file or data.classes",
    ),
    (
        "a,y\n1,0\n1,1.5\n",
        {"labels": True},
        "x.csv:3: column 'y': expected a class label, got '1.5'; targets that are no labels need a loss for regression",
    ),
    (
        "0,1,y\n1,2,0\n3,4,1\n",
        {"labels": True},
        "x.csv:1: column 2 (from 0): expected a class label, got 'y'; "
        "if it is the header, set `header: true`; if it is a class, name all in `classes`",
    ),
    (
        "1,ant\n1,\n",
        {"labels": True},
        "x.csv:2: column 1 (from 0): expected a class label, got ''; "
        "if it is the header, set `header: true`; if it is a class, name all in `classes`",
    ),
    ('1,"a\nb"\n', {"labels": True}, "x.csv:2: expected 2 columns, got 1"),
    ('1,"a\n2,b"\n', {"labels": True}, "x.csv:1: expected one sample per line, but a cell holds a line break"),
]


@pytest.mark.parametrize(("content", "options", "message"), WRONG, ids=[message[5:60] for *_, message in WRONG])
def test_a_wrong_table_says_where_and_what(load, content, options, message):
    with pytest.raises(DataError) as caught:
        load(content, **options)
    assert str(caught.value) == message


def test_a_missing_file(load, tmp_path):
    section = DataSection.model_validate({"train": {"file": "none.csv"}})
    with pytest.raises(DataError) as caught:
        load_dataset(section, tmp_path, labels=False)
    remedy = "a path in a config is relative to the config's folder"
    assert str(caught.value) == f"{tmp_path}/none.csv: no such file; {remedy}"
    (tmp_path / "none.csv").mkdir()
    with pytest.raises(DataError) as caught:
        load_dataset(section, tmp_path, labels=False)
    assert str(caught.value) == f"{tmp_path}/none.csv: Is a directory"


@pytest.mark.parametrize(
    "source", [{"file": "none.csv"}, {"file": "none.npz"}, {"inputs": "none.npy"}, {"file": "/none/none.csv"}]
)
def test_a_missing_file_whose_path_may_come_from_the_command_line(source):
    """Nothing about folders where the config's folder does not matter."""
    [file] = source.values()
    base = Path("/elsewhere" if file.startswith("/") else "")
    with pytest.raises(DataError) as caught:
        load_dataset(DataSection.model_validate({"train": source}), base, labels=False)
    assert str(caught.value) == f"{file}: no such file"


def test_a_fault_in_a_later_block_has_its_own_line(load, monkeypatch):
    monkeypatch.setattr(table, "BLOCK_NUMBERS", 20)
    lines = [f"{i},{i}" for i in range(95)]
    data = load("\n".join(lines))
    assert data.train.inputs[:, 0].tolist() == list(range(95))
    lines[90] = "x,1"
    with pytest.raises(DataError) as caught:
        load("\n".join(lines))
    assert str(caught.value) == "x.csv:91: column 0 (from 0): expected a number, got 'x'"


def test_a_table_beyond_the_budget_lies_in_a_memory_map(load, monkeypatch):
    monkeypatch.setattr(table, "BLOCK_NUMBERS", 200)
    monkeypatch.setattr(table, "memory_budget", lambda: 1000)
    lines = [f"{i},{-i},{i % 3}" for i in range(1000)]
    for labels in (False, True):
        train = load("\n".join(lines), labels=labels).train
        assert isinstance(_owner(train.inputs), np.memmap)
        assert train.inputs[:, 1].tolist() == [-i for i in range(1000)]
        assert train.targets.reshape(-1).tolist() == [i % 3 for i in range(1000)]
    assert not isinstance(_owner(load("1,2,3\n").train.inputs), np.memmap)


def _owner(array):
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def test_a_full_temporary_folder_is_the_systems_refusal(load, monkeypatch):
    def refuse(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table, "memory_budget", lambda: 0)
    monkeypatch.setattr(rows.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(rows.tempfile, "tempdir", "/scratch")
    with pytest.raises(NnjitError) as caught:
        load("1,2\n")
    assert str(caught.value) == (
        "/scratch: No space left on device; a table larger than a quarter of the memory is kept there, "
        "set TMPDIR to a folder with more space"
    )
    assert caught.value.exit_code == 1


def test_the_budget_is_a_share_of_the_memory(monkeypatch):
    assert 1 << 26 < rows.memory_budget() < 1 << 50
    monkeypatch.delattr(rows.os, "sysconf")
    assert rows.memory_budget() == 1 << 30


names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1).filter(
    lambda name: not name[0].isdigit()
)


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.lists(
        st.tuples(*[st.floats(width=32, allow_nan=False, allow_infinity=False)] * 2), min_size=1, max_size=20
    ),
    labels=st.data(),
    delimiter=st.sampled_from(",;\t"),
)
def test_a_table_is_read_as_it_was_written(tmp_path_factory, inputs, labels, delimiter):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    spelled = [labels.draw(names.map("n{}".format)) for _ in inputs]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["a", "b", "y"])
        writer.writerows([*row, label] for row, label in zip(inputs, spelled, strict=True))
    section = DataSection.model_validate({"train": {"file": "x.csv", "target": "y"}})
    data = load_dataset(section, path.parent, labels=True)
    assert data.train.inputs.tolist() == [list(row) for row in inputs]
    assert [data.classes[label] for label in data.train.targets] == spelled
