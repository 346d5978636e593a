"""The data sets in data/ are what data/README.md says."""

import re
from pathlib import Path

import numpy as np
import pytest

from nnjit.data.dataset import load_dataset
from nnjit.data.section import DataSection

DATA = Path(__file__).parent.parent / "data"


def shipped(name, target, labels):
    files = {split: {"file": f"{name}/{split}.csv", "target": target} for split in ("train", "validation", "test")}
    return load_dataset(DataSection.model_validate(files), DATA, labels=labels)


def sizes_in_readme(name):
    return [int(count) for count in re.findall(rf"\| `{name}/\w+\.csv` \| (\d+) \|", (DATA / "README.md").read_text())]


def test_digits():
    data = shipped("digits", "digit", labels=True)
    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == sizes_in_readme("digits") == [1295, 143, 359]
    assert data.classes == [str(digit) for digit in range(10)]
    assert data.shape == (64,)
    for split in splits:
        assert split.inputs.min() == 0 and split.inputs.max() == 16
        counts = np.bincount(split.targets)
        assert counts.min() > 0.9 * len(split) / 10 and counts.max() < 1.1 * len(split) / 10
    rows = np.concatenate([split.inputs for split in splits])
    assert len(np.unique(rows, axis=0)) == len(rows), "an image occurs twice"


def test_friedman():
    data = shipped("friedman", "y", labels=False)
    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == sizes_in_readme("friedman") == [1200, 300, 500]
    for split in splits:
        x = split.inputs.T.astype(float)
        known = 10 * np.sin(np.pi * x[0] * x[1]) + 20 * (x[2] - 0.5) ** 2 + 10 * x[3] + 5 * x[4]
        noise = split.targets[:, 0] - known
        assert abs(noise.mean()) < 0.2 and 0.85 < noise.std() < 1.15


@pytest.mark.peers
def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    data = shipped("digits", "digit", labels=True)
    splits = (data.train, data.validation, data.test)
    ours = np.concatenate([np.column_stack([split.inputs, split.targets]) for split in splits])
    theirs = np.column_stack([images, digits])
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
