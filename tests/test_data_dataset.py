"""Splits, scaling, and what the splits of a data set share."""

import io
import sys

import numpy as np
import pytest

from nnjit.data import files, scaling
from nnjit.data.dataset import input_shape, load_dataset, load_split
from nnjit.data.section import DataSection
from nnjit.data.splitting import held_out
from nnjit.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a.csv (60 samples of 2 inputs), b.csv (6), wide.csv (3 inputs) and z.npy (4, 3, 2)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("p,q,y\n" + "".join(f"{i},{i * i},{i % 3}\n" for i in range(60)))
    (tmp_path / "b.csv").write_text("".join(f"{i},{-i},{i % 2}\n" for i in range(6)))
    (tmp_path / "wide.csv").write_text("1,2,3,0\n")
    (tmp_path / "z.npy").write_bytes(b"")
    np.save(tmp_path / "z.npy", np.zeros((4, 3, 2)))
    return tmp_path.relative_to(tmp_path)


def section(**fields):
    return DataSection.model_validate({"train": {"file": "a.csv"}, **fields})


def test_held_out_samples_are_disjoint_complete_and_the_same_every_time(folder):
    fractions = {"validation": {"fraction": 0.25}, "test": {"fraction": 0.1, "seed": 3}}
    data = load_dataset(section(**fractions), folder, labels=True)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [39, 15, 6]
    rows = [split.rows for split in (data.train, data.validation, data.test)]
    assert sorted(np.concatenate(rows)) == list(range(60))
    assert all((np.diff(part) > 0).all() for part in rows)
    assert data.test.rows.tolist() == TEST_ROWS
    assert np.shares_memory(data.train.inputs, data.validation.inputs)
    again = held_out(section(**fractions), 60)
    assert [again[name].tolist() for name in ("train", "validation", "test")] == [part.tolist() for part in rows]
    # The test split does not depend on validation; another seed draws another one.
    assert held_out(section(test=fractions["test"]), 60)["test"].tolist() == TEST_ROWS
    assert held_out(section(test={"fraction": 0.1}), 60)["test"].tolist() != TEST_ROWS


TEST_ROWS = [0, 4, 20, 28, 31, 47]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"validation": {"fraction": 0.001}},
            "data.validation: expected a fraction that takes 1 to 59 of 60 samples, got 0.001, which takes 0",
        ),
        (
            {"validation": {"fraction": 0.5}, "test": {"fraction": 0.6}},
            "data.validation: expected a fraction that takes 1 to 23 of 60 samples, got 0.5, which takes 30",
        ),
        (
            {"test": {"file": "wide.csv"}},
            "wide.csv: expected inputs of shape (2,), as the network takes: 2 numbers, got 3 of shape (3,)",
        ),
        (
            {"shape": [1, 3, 3]},
            "a.csv: expected inputs of shape (1, 3, 3), as data.shape says: 9 numbers, got 2 of shape (2,)",
        ),
        (
            {"train": {"inputs": "z.npy"}, "shape": [1, 2, 3]},
            "z.npy: expected inputs of shape (1, 2, 3), as data.shape says, got (3, 2), whose axes stand in "
            "another order; store channels first, by np.moveaxis(images, -1, 1)",
        ),
    ],
)
def test_splits_that_do_not_fit(folder, fields, message):
    with pytest.raises(DataError) as caught:
        load_dataset(section(**fields), folder, labels=True)
    assert str(caught.value) == message


def test_targets_of_another_shape(folder):
    fields = {"test": {"file": "wide.csv", "target": [2, 3]}}
    with pytest.raises(DataError) as caught:
        load_dataset(section(**fields), folder, labels=False)
    assert str(caught.value) == "wide.csv: expected targets of shape (1,), as in training, got (2,)"


def test_labels_cannot_be_standardized(folder):
    with pytest.raises(ConfigError) as caught:
        load_dataset(section(standardize_targets=True), folder, labels=True)
    assert str(caught.value) == "data.standardize_targets: expected false, since targets are class labels"


def test_only_the_splits_asked_for_are_read(folder):
    data = load_dataset(section(test={"file": "none.csv"}), folder, labels=True, splits=("validation",))
    assert data.validation is None and data.test is None
    with pytest.raises(DataError):
        load_dataset(section(test={"file": "none.csv"}), folder, labels=True)


def test_a_file_with_two_splits_is_parsed_once(folder, monkeypatch):
    from nnjit.data import dataset

    read = []
    monkeypatch.setattr(dataset, "read_source", lambda *a, real=dataset.read_source: read.append(a) or real(*a))
    fields = {"train": {"file": "a.csv", "rows": [0, 40]}, "test": {"file": "a.csv", "rows": [40, 60]}}
    data = load_dataset(section(**fields), folder, labels=True)
    assert len(read) == 1
    assert data.train.inputs[:, 0].tolist() == list(range(40))
    assert data.test.inputs[:, 0].tolist() == list(range(40, 60))


def test_one_split_for_a_trained_network(folder):
    other = section(train={"file": "none.csv"}, validation={"file": "b.csv"})
    split = load_split(other, folder, "validation", shape=(2,), classes=["no", "yes"])
    assert split.targets.tolist() == [0, 1] * 3
    split = load_split(other, folder, "validation", shape=(1, 2, 1), classes=None)
    assert split.inputs.shape == (6, 1, 2, 1) and split.targets.dtype == np.float32
    with pytest.raises(ConfigError) as caught:
        load_split(other, folder, "test", shape=(2,), classes=None)
    assert str(caught.value) == ("data.test: expected a source, since the test split is asked for; the config has none")


def test_one_held_out_split_is_that_of_training(folder):
    fields = section(validation={"fraction": 0.25}, test={"fraction": 0.1})
    data = load_dataset(fields, folder, labels=True)
    split = load_split(fields, folder, "validation", shape=(2,), classes=data.classes)
    assert split.rows.tolist() == data.validation.rows.tolist()
    assert split.inputs.tolist() == data.validation.inputs.tolist()


def test_the_shape_comes_from_the_head_of_a_file(folder):
    assert input_shape(section(), folder, labels=True) == (2,)
    assert input_shape(section(shape=[1, 1, 2]), folder, labels=True) == (1, 1, 2)
    # Nothing behind the first line is read: that it is wrong does not show.
    (folder / "a.csv").write_text("1,2,0\nx\n")
    assert input_shape(section(), folder, labels=True) == (2,)
    assert input_shape(section(train={"inputs": "z.npy"}), folder, labels=True) == (1, 3, 2)
    with pytest.raises(DataError) as caught:
        input_shape(section(shape=[4]), folder, labels=True)
    assert str(caught.value) == (
        "a.csv: expected inputs of shape (4,), as data.shape says: 4 numbers, got 2 of shape (2,)"
    )


def test_scaling(folder, monkeypatch):
    fields = {"validation": {"fraction": 0.5}}
    data = load_dataset(section(divide=4, **fields), folder, labels=True)
    assert (data.shift.tolist(), data.factor.tolist()) == ([0], [0.25])
    for block in (16, 1 << 20):
        monkeypatch.setattr(scaling, "BLOCK_NUMBERS", block)
        data = load_dataset(section(standardize="column", standardize_targets=True, **fields), folder, labels=False)
        train = data.train.inputs[data.train.rows].astype(float)
        np.testing.assert_allclose(data.shift, train.mean(0), rtol=1e-13)
        np.testing.assert_allclose(data.factor, 1 / train.std(0), rtol=1e-13)
        targets = data.train.targets[data.train.rows].astype(float)
        np.testing.assert_allclose(data.target_shift, targets.mean(0), rtol=1e-13)
        np.testing.assert_allclose(data.target_factor, 1 / targets.std(0), rtol=1e-13)
        data = load_dataset(section(standardize="all", **fields), folder, labels=True)
        np.testing.assert_allclose(data.shift, [train.mean()], rtol=1e-13)
        np.testing.assert_allclose(data.factor, [1 / train.std()], rtol=1e-13)
        assert (data.target_shift.tolist(), data.target_factor.tolist()) == ([0], [1])


def test_a_constant_column_keeps_its_scale(folder):
    (folder / "a.csv").write_text("".join(f"0.1,{i},{i % 2}\n" for i in range(1000)))
    data = load_dataset(section(standardize="column", divide=5), folder, labels=True)
    assert data.factor[0] == 0.2
    assert data.shift[0] == pytest.approx(0.1)
    # In float64 the rounded mean of equal numbers may differ from them.
    constant = np.full((1000, 2), 0.1)
    assert constant.std(axis=0).max() > 0
    assert scaling.standardizing(constant, np.arange(1000))[1].tolist() == [1, 1]


def test_training_from_standard_input(folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((folder / "a.csv").read_bytes())))
    files._kept_standard_input.cache_clear()
    piped = section(train={"file": "-"}, validation={"fraction": 0.1})
    assert input_shape(piped, folder, labels=True) == (2,)
    assert len(load_dataset(piped, folder, labels=True).train) == 54
    with pytest.raises(DataError) as caught:
        input_shape(section(train={"file": "-"}, shape=[3]), folder, labels=True)
    assert str(caught.value) == (
        "standard input: expected inputs of shape (3,), as data.shape says: 3 numbers, got 2 of shape (2,)"
    )
    files._kept_standard_input.cache_clear()
