"""What the `data:` section of a config accepts, and that checking it needs no NumPy."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from nnjit.data.section import ArraysSource, CsvSource, DataSection, FractionSource, NpzSource


def test_a_full_section_survives_a_round_trip():
    section = DataSection.model_validate(
        {
            "train": {"file": "a.csv", "target": ["y", 1], "rows": [0, 5]},
            "validation": {"fraction": 0.1},
            "test": {"inputs": "x.npy", "targets": "y.npy"},
            "shape": [1, 8, 8],
            "classes": ["cat", "dog"],
            "divide": 16,
        }
    )
    assert section.train == CsvSource(file="a.csv", target=("y", 1), rows=(0, 5))
    assert section.validation == FractionSource(fraction=0.1)
    assert section.test == ArraysSource(inputs="x.npy", targets="y.npy")
    assert (section.shape, section.classes, section.divide) == ((1, 8, 8), ("cat", "dog"), 16.0)
    assert DataSection.model_validate(section.model_dump(mode="json")) == section
    assert DataSection.model_validate(section) == section
    assert DataSection(train=section.train).train == section.train


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ({"file": "a.csv"}, CsvSource),
        ({"file": "a.npz"}, NpzSource),
        ({"file": "a", "format": "npz"}, NpzSource),
        ({"file": "a", "inputs": "x"}, NpzSource),
        ({"inputs": "a"}, ArraysSource),
    ],
)
def test_the_format_is_found_from_the_keys(source, kind):
    assert type(DataSection.model_validate({"train": source}).train) is kind


@pytest.mark.parametrize(
    ("section", "place", "message"),
    [
        ({"train": {"file": "a.csv", "targett": 3}}, ("train", "csv", "targett"), "Extra inputs are not permitted"),
        ({"train": "a.csv"}, ("train",), "expected a mapping with `file` or `inputs`"),
        ({"train": {"fraction": 0.5}}, ("train",), "expected a mapping with `file` or `inputs`"),
        ({"train": {"file": "a", "format": "h5"}}, ("train",), "expected a mapping with `file` or `inputs`"),
        (
            {"train": {"file": "a.csv"}, "test": 3},
            ("test",),
            "expected a mapping with `file`, `inputs` or `fraction`",
        ),
        (
            {"train": {"file": "a.csv", "rows": [5, 5]}},
            ("train", "csv", "rows"),
            "Value error, expected [start, stop] with start below stop, got [5, 5]",
        ),
        (
            {"train": {"file": "a.csv", "target": "y", "header": False}},
            ("train", "csv"),
            "Value error, target column 'y' is a name, but header is false; give its index",
        ),
        (
            {"train": {"file": "-"}, "test": {"file": "-"}},
            (),
            "Value error, only one of train, validation and test can be read from standard input (`-`)",
        ),
        ({"train": {"file": "a.csv"}, "divide": 0}, ("divide",), "Input should be greater than 0"),
        ({"train": {"file": "a.csv"}, "shape": ["8"]}, ("shape", 0), "Input should be a valid integer"),
        # NumPy's arrays have a limited number of axes, one of which the samples take.
        (
            {"train": {"file": "a.csv"}, "shape": [1] * 32},
            ("shape",),
            "Tuple should have at most 31 items after validation, not 32",
        ),
    ],
)
def test_mistakes_are_placed(section, place, message):
    with pytest.raises(ValidationError) as caught:
        DataSection.model_validate(section)
    assert [(error["loc"], error["msg"]) for error in caught.value.errors()][0] == (place, message)


def test_the_section_needs_no_numpy():
    code = "import sys, nnjit.data.section; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    # The same check does see numpy where it is imported.
    code = code.replace("nnjit.data.section", "nnjit.data.dataset")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 1
