"""Reading configs: each bad file against its whole message, overrides, round trips, the JSON Schema."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnjit.config import Config, dump, json_schema, load_config, parse_config
from nnjit.config.document import Place, read
from nnjit.errors import ConfigError

HEAD = """\
data: {train: {file: a.csv}}
loss: softmax_cross_entropy
optimizer: {learning_rate: 0.1}
"""
LENET = """\
data: {train: {file: a.csv}, validation: {fraction: .2}, shape: [1, 28, 28]}
model:
  - conv2d: {filters: 6, kernel: 5, padding: same}
  - relu
  - max_pool: 2
  - {type: conv2d, filters: 16, kernel: [5, 3], weight_init: {normal: 1e-3}}
  - average_pool: {window: [2, 1]}
  - sigmoid:
  - flatten
  - dense: 10
loss: softmax_cross_entropy
optimizer: {type: sgd, learning_rate: 1E-5, momentum: 0.9}
train: {epochs: 3, batch_size: 32}
seed: 7
"""


def parse(text: str, *overrides: str) -> Config:
    return parse_config(text, "x.yaml", Path(), overrides).config


def message(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, *overrides)
    return str(caught.value)


def value(text: str) -> Any:
    return read(text, lambda line, column: Place(line, column, f"{line}:{column}")).value


KINDS_OF_LAYERS = "sigmoid, tanh, relu, softmax, conv2d, dense, flatten, max_pool, average_pool"
PAIR = "an integer of at least 1 or a list of 2 (each an integer of at least 1)"

# Every model below is appended to HEAD, so it begins on line 4.
BAD_MODELS = {
    "unknown kind": ("- dens: 30", "5:3: model[0]: unknown layer 'dens' (did you mean 'dense'?)"),
    "unknown kind alone": ("- ReLU2", "5:3: model[0]: unknown layer 'ReLU2' (did you mean 'relu'?)"),
    "unknown kind as type": (
        "- {units: 3, type: dens}",
        "5:20: model[0]: unknown layer 'dens' (did you mean 'dense'?)",
    ),
    "unlike any kind": ("- lstm: 3", f"5:3: model[0]: unknown layer 'lstm'; known: {KINDS_OF_LAYERS}"),
    "unknown field": (
        "- relu\n- conv2d: {fitlers: 6, filters: 6, kernel: 5}",
        "6:12: model[1].conv2d: unknown field 'fitlers' (did you mean 'filters'?)",
    ),
    "unlike any field": (
        "- dense:\n    units: 3\n    colour: red",
        "7:5: model[0].dense: unknown field 'colour'; known: type, units, bias, weight_init, bias_init",
    ),
    "bool as integer": (
        "- dense: true",
        "5:10: model[0].dense.units: expected an integer of at least 1, got True",
    ),
    "float as integer": (
        "- dense: 3.0",
        "5:10: model[0].dense.units: expected an integer of at least 1, got 3.0",
    ),
    "too small": ("- dense: 0", "5:10: model[0].dense.units: expected an integer of at least 1, got 0"),
    "octal stays text": (
        "- dense: 010",
        "5:10: model[0].dense.units: expected an integer of at least 1, got '010'",
    ),
    "too small in a field": (
        "- {type: dense, units: 0}",
        "5:24: model[0].dense.units: expected an integer of at least 1, got 0",
    ),
    "no value": (
        "- dense:\n    units:",
        "6:11: model[0].dense.units: expected an integer of at least 1, got nothing",
    ),
    "yes is not a bool": (
        "- dense: {units: 3, bias: yes}",
        "5:27: model[0].dense.bias: expected true or false, got 'yes'",
    ),
    "missing field": (
        "- relu\n- dense",
        "6:3: model[1].dense: missing field 'units' (an integer of at least 1)",
    ),
    "missing field in a mapping": (
        "- conv2d: {filters: 3}",
        f"5:11: model[0].conv2d: missing field 'kernel' ({PAIR})",
    ),
    "pair": (
        "- conv2d: {filters: 3, kernel: [3, 0]}",
        f"5:32: model[0].conv2d.kernel: expected {PAIR}, got [3, 0]",
    ),
    "pair in shorthand": (
        "- max_pool: [1, 2, 3]",
        f"5:13: model[0].max_pool.window: expected {PAIR}, got [1, 2, 3]",
    ),
    "union": (
        "- conv2d: {filters: 3, kernel: 3, padding: sme}",
        "5:44: model[0].conv2d.padding: expected 'valid', 'same', 'full', an integer of at least 0 or a list "
        "of 2 (each an integer of at least 0), got 'sme'",
    ),
    "nested kind": (
        "- dense: {units: 3, weight_init: he_norm}",
        "5:34: model[0].dense.weight_init: unknown initializer 'he_norm' (did you mean 'he_normal'?)",
    ),
    "nested field": (
        "- dense: {units: 3, weight_init: {normal: 0}}",
        "5:43: model[0].dense.weight_init.normal.std: expected a number above 0, got 0",
    ),
    "infinite": (
        "- dense: {units: 3, weight_init: {normal: .inf}}",
        "5:43: model[0].dense.weight_init.normal.std: expected a number above 0, got inf",
    ),
    "no main field": (
        "- relu: 3",
        "5:3: model[0]: expected a mapping of fields under 'relu', without `type`, got {'relu': 3}",
    ),
    "two kinds": (
        "- {dense: 3, relu: }",
        "5:3: model[0]: expected a layer: its name, or {name: fields}, got {'dense': 3, 'relu': None}",
    ),
    "not a layer": ("- 3", "5:3: model[0]: expected a layer: its name, or {name: fields}, got 3"),
    "long value": (
        f"- [{'12345678, ' * 9}1]",
        "5:3: model[0]: expected a layer: its name, or {name: fields}, got "
        "[12345678, 12345678, 12345678, 12345678, 12345678, 123456...",
    ),
    "given twice": (
        "- dense: {units: 3, units: 4}",
        "5:21: model[0].dense.units: given twice, first at x.yaml:5:11",
    ),
    "not a list": (
        "  {dense: 3}",
        "5:3: model: expected a list of at least 1 (each a layer), got {'dense': 3}",
    ),
    "no layers": ("  []", "5:3: model: expected a list of at least 1 (each a layer), got []"),
    "tag": (
        "- !!timestamp 2020-01-01",
        "5:3: model[0]: the YAML tag 'tag:yaml.org,2002:timestamp' has no meaning here",
    ),
    "python tag": (
        "- !!python/object:os.system {}",
        "5:3: model[0]: the YAML tag 'tag:yaml.org,2002:python/object:os.system' has no meaning here",
    ),
    "tag that does not fit": ("- dense: !!int ten", "5:10: model[0].dense: 'ten' cannot be read as int"),
    "bool tag that does not fit": ("- dense: !!bool on", "5:10: model[0].dense: 'on' cannot be read as bool"),
    "alias of itself": ("- &a [*a]", "5:3: model[0][0]: an alias of something that it is a part of"),
    "merge of a list": (
        "- dense: {<<: [3]}",
        "5:16: model[0].dense: `<<` takes an alias of a mapping, or a list of them",
    ),
    "key that is a list": ("- {[1]: 2}", "5:4: model[0]: expected a name as key, got a mapping or a list"),
    "tab": (
        "- dense:\n\t  units: 3",
        "6:1: not YAML: while scanning for the next token, found character '\\t' that cannot start any token; "
        "indent with spaces, not tabs",
    ),
    "bare dash": (
        "- dense:\n    units: -\n    bias: true",
        "6:12: not YAML: sequence entries are not allowed here; for standard input write '-' in quotes",
    ),
    "unclosed": (
        "- {dense: 3",
        "6:1: not YAML: while parsing a flow mapping, expected ',' or '}', but got '<stream end>'",
    ),
    "control character": ("- dense\x07", "5:8: not YAML: control character '\\x07'"),
    "two documents": (
        "- dense: 3\n---\na: 1",
        "6:1: not YAML: expected a single document in the stream, but found another document",
    ),
}


@pytest.mark.parametrize(("model", "expected"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_bad_model(model: str, expected: str) -> None:
    assert message(f"{HEAD}model:\n{model}\n") == f"x.yaml:{expected}"


def without(section: str, **replaced: str) -> str:
    sections = {
        "data": "{train: {file: a.csv}}",
        "model": "[relu]",
        "loss": "half_squared_error",
        "optimizer": "{learning_rate: 0.1}",
    }
    return "".join(f"{key}: {text}\n" for key, text in {**sections, **replaced}.items() if key != section)


BAD_FILES = {
    "empty": ("", "1:1: expected a mapping with data, model, loss, optimizer, train, seed; got nothing"),
    "comment": (
        "# c\n",
        "1:1: expected a mapping with data, model, loss, optimizer, train, seed; got nothing",
    ),
    "list": ("\n- 1\n", "2:1: expected a mapping with data, model, loss, optimizer, train, seed; got [1]"),
    "text": ("hello", "1:1: expected a mapping with data, model, loss, optimizer, train, seed; got 'hello'"),
    "deep": ("[" * 5000, "1:1: nested too deeply"),
    "no data": (without("data"), "1:1: missing field 'data' (a mapping)"),
    "no model": (without("model"), "1:1: missing field 'model' (a list of at least 1 (each a layer))"),
    "no loss": (without("loss"), "1:1: missing field 'loss' (a loss)"),
    "no optimizer": (without("optimizer"), "1:1: missing field 'optimizer' (an optimizer)"),
    "unknown section": (without("", trian="{}"), "5:1: unknown field 'trian' (did you mean 'train'?)"),
    "key that is a number": (
        without("", **{"3": "{}"}),
        "5:1: unknown field '3'; known: data, model, loss, optimizer, train, seed",
    ),
    "section twice": (without("") + "loss: x\n", "5:1: loss: given twice, first at x.yaml:3:1"),
    "no source": (
        without("", data="{train: 3}"),
        "1:15: data.train: expected a mapping with `file` or `inputs`, got 3",
    ),
    "field of a source": (
        without("", data="{train: {file: a.csv, traget: 3}}"),
        "1:29: data.train: unknown field 'traget' (did you mean 'target'?)",
    ),
    "value of a source whose kind is a field": (
        without("", data="{train: {file: a.csv}, validation: {seed: x, fraction: 0.1}}"),
        "1:49: data.validation.seed: expected an integer of at least 0, got 'x'",
    ),
    "rule of a source": (
        without("", data="{train: {file: a.csv, rows: [3, 1]}}"),
        "1:35: data.train.rows: expected [start, stop] with start below stop, got [3, 1]",
    ),
    "choice": (
        without("", data="{train: {file: a.csv, header: maybe}}"),
        "1:37: data.train.header: expected 'auto', True or False, got 'maybe'",
    ),
    "optional": (
        without("", train="{checkpoint_every: 0}"),
        "5:27: train.checkpoint_every: expected an integer of at least 1 or null, got 0",
    ),
    "empty section": (without("", train=""), "5:7: train: expected a mapping, got nothing"),
    "initials": (
        without("", optimizer="{learning_rate: 1, wd: 0.1}"),
        "4:31: optimizer.sgd: unknown field 'wd' (did you mean 'weight_decay'?)",
    ),
    "beginning": (
        without("", loss="softmax"),
        "3:7: loss: unknown loss 'softmax' (did you mean 'softmax_cross_entropy'?)",
    ),
    "unknown optimizer": (
        without("", optimizer="{type: adam, learning_rate: 1}"),
        "4:19: optimizer: unknown optimizer 'adam'; known: sgd",
    ),
    "rule of an optimizer": (
        without("", optimizer="{learning_rate: 1, nesterov: true}"),
        "4:12: optimizer.sgd: nesterov needs a momentum above 0",
    ),
    "bounds": (
        without("", optimizer="{learning_rate: 1, momentum: 1}"),
        "4:41: optimizer.sgd.momentum: expected a number of at least 0 and below 1, got 1",
    ),
    "sexagesimal stays text": (
        without("", optimizer="{learning_rate: 1:30}"),
        "4:28: optimizer.sgd.learning_rate: expected a number above 0, got '1:30'",
    ),
}


@pytest.mark.parametrize(("text", "expected"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file(text: str, expected: str) -> None:
    assert message(text) == f"x.yaml:{expected}"


def test_all_problems_at_once_in_reading_order() -> None:
    text = """\
sed: 1
data: {train: {fil: a.csv}}
model:
  - dens: 30
  - dense: {units: 0, units: 1}
optimizer: 0.1
train: {epochs: 1e3}
"""
    assert message(text, "train.shuffle=3", "foo").splitlines() == [
        "x.yaml:1:1: missing field 'loss' (a loss)",
        "x.yaml:1:1: unknown field 'sed' (did you mean 'seed'?)",
        "x.yaml:2:15: data.train: missing field 'file' (text)",
        "x.yaml:2:16: data.train: unknown field 'fil' (did you mean 'file'?)",
        "x.yaml:4:5: model[0]: unknown layer 'dens' (did you mean 'dense'?)",
        "x.yaml:5:20: model[1].dense.units: expected an integer of at least 1, got 0",
        "x.yaml:5:23: model[1].dense.units: given twice, first at x.yaml:5:13",
        "x.yaml:6:12: optimizer: expected an optimizer: its name, or {name: fields}, got 0.1",
        "x.yaml:7:17: train.epochs: expected an integer of at least 1, got 1000.0",
        "--set train.shuffle=3: train.shuffle: expected true or false, got 3",
        "--set foo: expected KEY=VALUE, such as train.epochs=5",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1e-3, 1E5, .5, -2e4, 2., +7, -0, 0]", [0.001, 1e5, 0.5, -2e4, 2.0, 7, 0, 0]),
        ("[on, off, yes, no, 1:30, 010, 0x1F, 1_000, 2024-01-01, 1.5.2, '7']",
         ["on", "off", "yes", "no", "1:30", "010", "0x1F", "1_000", "2024-01-01", "1.5.2", "7"]),
        ("[true, False, null, ~, ]", [True, False, None, None]),
        ("[.inf, -.Inf]", [float("inf"), float("-inf")]),
        ("{a: &a {x: 1, y: 2}, b: {<<: *a, y: 3}}", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}),
        ("{a: &a {x: 1}, b: &b {x: 2, y: 2}, c: {<<: [*a, *b]}}",
         {"a": {"x": 1}, "b": {"x": 2, "y": 2}, "c": {"x": 1, "y": 2}}),
        ("{a: &a [1], b: *a}", {"a": [1], "b": [1]}),
        ("{true: 1, 2: 3}", {"true": 1, "2": 3}),
    ],
)  # fmt: skip
def test_values(text: str, expected: Any) -> None:
    assert value(text) == expected


def test_nan() -> None:
    assert value(".nan") != value(".NaN")


def test_an_override_does_not_reach_through_an_alias() -> None:
    text = HEAD + "model: [&a {dense: {units: 3}}, *a]\n"
    assert [layer.units for layer in parse(text, "model.0.units=4").model] == [4, 3]  # type: ignore[attr-defined]


def test_defaults() -> None:
    config = parse(HEAD + "model: [relu]")
    assert config.train.model_dump() == {
        "epochs": 10,
        "batch_size": 64,
        "shuffle": True,
        "precision": "float32",
        "checkpoint_every": None,
    }
    assert config.seed == 0
    assert config.optimizer.model_dump() == {
        "type": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
    }


@pytest.mark.parametrize(
    ("overrides", "path", "expected"),
    [
        (["optimizer.learning_rate=1e-2"], "optimizer.learning_rate", 0.01),
        (["optimizer.learning_rate=1", "optimizer.learning_rate=2"], "optimizer.learning_rate", 2),
        (["train={epochs: 5}", "train.batch_size=8"], "train.epochs", 5),
        (["train.epochs=5", "train={batch_size: 8}"], "train.epochs", 10),
        (["model.0.filters=8"], "model.0.filters", 8),
        (["model.0.conv2d.filters=8"], "model.0.filters", 8),
        (["model.0.weight_init=zeros"], "model.0.weight_init.type", "zeros"),
        (["model.0.weight_init={normal: .5}"], "model.0.weight_init.std", 0.5),
        (["model.0.weight_init.type=normal", "model.0.weight_init.std=.5"], "model.0.weight_init.std", 0.5),
        (["model.2.window=[3, 2]"], "model.2.window", (3, 2)),
        (["model.3.weight_init.std=0.5"], "model.3.weight_init.std", 0.5),
        (["model.1=tanh"], "model.1.type", "tanh"),
        (["model.1.type=tanh"], "model.1.type", "tanh"),
        (["model.5.type=tanh"], "model.5.type", "tanh"),
        (["model.7.units=32"], "model.7.units", 32),
        (["model.7.dense=32"], "model.7.units", 32),
        (["model.3.conv2d={filters: 2, kernel: 1}"], "model.3.kernel", (1, 1)),
        (["model=[{dense: 3}]"], "model.0.units", 3),
        (["loss.type=half_squared_error"], "loss.type", "half_squared_error"),
        (["loss=half_squared_error"], "loss.type", "half_squared_error"),
        (["data.validation=null"], "data.validation", None),
        (["data.validation=", "data.validation.fraction=0.5"], "data.validation.fraction", 0.5),
        (["data.train.file=a=b.csv"], "data.train.file", "a=b.csv"),
        (["data.train.file=-"], "data.train.file", "-"),
        (["data.test.file=c.csv"], "data.test.file", "c.csv"),
        (["data.shape.1=14"], "data.shape", (1, 14, 28)),
    ],
)
def test_overrides(overrides: list[str], path: str, expected: Any) -> None:
    found: Any = parse(LENET, *overrides)
    for part in path.split("."):
        found = found[int(part)] if part.isdecimal() else getattr(found, part)
    assert found == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.lr=0.1", "optimizer.sgd: unknown field 'lr' (did you mean 'learning_rate'?)"),
        ("optimizer.learning_rate=-1", "optimizer.sgd.learning_rate: expected a number above 0, got -1"),
        ("trian.epochs=3", "unknown field 'trian' (did you mean 'train'?)"),
        ("train.epochs.x=3", "train.epochs: 3 has no field 'x'"),
        ("model.7.units=0", "model[7].dense.units: expected an integer of at least 1, got 0"),
        ("model.7.dense=x", "model[7].dense.units: expected an integer of at least 1, got 'x'"),
        ("model.1.units=2", "model[1].relu: unknown field 'units'; known: type"),
        ("model.3={dense: x}", "model[3].dense.units: expected an integer of at least 1, got 'x'"),
        ("model.1=dens", "model[1]: unknown layer 'dens' (did you mean 'dense'?)"),
        ("model.1.type=dens", "model[1]: unknown layer 'dens' (did you mean 'dense'?)"),
        ("model.8.units=2", "model: expected an index below 8, got '8'"),
        ("model.first.units=2", "model: expected an index below 8, got 'first'"),
        ("data.test.header=true", "data.test: missing field 'file' (text)"),
        (
            "data.validation.fraction=2",
            "data.validation.fraction: expected a number above 0 and below 1, got 2",
        ),
        ("seed", "expected KEY=VALUE, such as train.epochs=5"),
        ("=3", "unknown field ''; known: data, model, loss, optimizer, train, seed"),
        ("seed=-", "seed: expected an integer of at least 0, got '-'"),
        ("seed=[1", "not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_bad_override(override: str, expected: str) -> None:
    assert message(LENET, override) == f"--set {override}: {expected}"


def test_an_override_of_an_unknown_component() -> None:
    text = LENET.replace("- relu", "- rleu: {x: 1}").replace("- dense: 10", "- 3")
    assert message(text, "model.1.x=2", "model.7.units=3").splitlines() == [
        "x.yaml:4:5: model[1]: unknown layer 'rleu' (did you mean 'relu'?)",
        "x.yaml:10:5: model[7]: expected a layer: its name, or {name: fields}, got 3",
        "--set model.7.units=3: model[7]: 3 has no field 'units'",
    ]


def test_the_last_override_is_the_one_that_problems_name() -> None:
    assert message(LENET, "model.7.units=0", "model.7={dense: -1}") == (
        "--set model.7={dense: -1}: model[7].dense.units: expected an integer of at least 1, got -1"
    )


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("model", 0), "c.yaml:3:5: model[0].conv2d"),
        (("model", 1), "c.yaml:4:5: model[1].relu"),
        (("model", 3, "weight_init", "std"), "c.yaml:6:71: model[3].conv2d.weight_init.normal.std"),
        (("model", 7, "units"), "c.yaml:10:12: model[7].dense.units"),
        (("model", 2, "window"), "--set model.2.window=3: model[2].max_pool.window"),
        (("model", 2), "c.yaml:5:5: model[2].max_pool"),
        (("data", "validation", "seed"), "c.yaml:1:42: data.validation.seed"),
        ((), "c.yaml:1:1"),
    ],
)
def test_errors_found_later_name_the_place(path: tuple[str | int, ...], place: str) -> None:
    loaded = parse_config(LENET, "c.yaml", Path(), ["model.2.window=3"])
    assert str(loaded.error(path, "no")) == f"{place}: no"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + LENET.replace("\n", "\r\n").encode())  # as some editors save it
    loaded = load_config(str(path), ["seed=8"])
    assert (loaded.config, loaded.name, loaded.base) == (parse(LENET, "seed=8"), str(path), tmp_path)


def test_a_byte_order_mark_takes_no_column(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbf3")  # as some editors begin a file
    with pytest.raises(ConfigError, match="c.yaml:1:1: expected a mapping"):
        load_config(path)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LENET.replace("seed", "sed").encode())))
    with pytest.raises(ConfigError) as caught:
        load_config("-")
    assert str(caught.value) == "<stdin>:14:1: unknown field 'sed' (did you mean 'seed'?)"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LENET.encode())))
    loaded = load_config("-")
    assert (loaded.name, loaded.base) == ("<stdin>", Path("."))


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("data.train.file=-", "data.train.file"),
        ("data.test={file: -}", "data.test.file"),
        ("data.train={inputs: x.npy, targets: '-'}", "data.train.targets"),
    ],
)
def test_standard_input_is_one_file(monkeypatch: pytest.MonkeyPatch, override: str, place: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LENET.encode())))
    with pytest.raises(ConfigError) as caught:
        load_config("-", [override])
    assert str(caught.value) == (
        f"--set {override}: {place}: standard input (`-`) cannot be both the config and its data; "
        "keep one of them in a file"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none.yaml", ": cannot be read: No such file or directory"),
        (".", ": cannot be read: Is a directory"),
        ("latin.yaml", ":2:3: not UTF-8 text (byte 0xe9)"),
    ],
)
def test_unreadable(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"# \n# \xe9t\xe9\n")
    path = tmp_path / name
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}{expected}"


def test_dump_round_trip() -> None:
    config = parse(LENET)
    text = dump(config)
    assert parse(text) == config
    assert dump(parse(text)) == text
    assert "- type: max_pool\n  window: [2, 2]\n  stride: null\n  padding: [0, 0]\n" in text


texts = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1) | st.sampled_from(
    ["1e3", "010", "yes", "true", "null", "~", "<<", ".inf", "1", "a: b", "#", "- a", "*a", "&a", "", " a "]
)
rates = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@settings(max_examples=50, deadline=None)
@given(
    file=texts,
    target=texts | st.integers(-1, 99),
    rate=rates,
    mean=st.floats(allow_infinity=False, allow_nan=False),
)
def test_dump_round_trip_of_any_value(file: str, target: str | int, rate: float, mean: float) -> None:
    source = {"file": file, "target": target, "format": "csv"}
    layer = {"dense": {"units": 3, "bias_init": {"normal": {"mean": mean}}}}
    config = Config.model_validate(
        {
            "data": {"train": source},
            "model": [layer],
            "loss": "half_squared_error",
            "optimizer": {"sgd": rate},
        }
    )
    assert parse(dump(config)) == config


def test_importing_config_imports_no_numpy() -> None:
    code = "import sys, nnjit.config; sys.exit(bool({'numpy', 'numba'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture(scope="module")
def schema_errors() -> Any:
    """A function from YAML text to what the JSON Schema has against it."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    return lambda text: [error.message for error in validator.iter_errors(value(text))]


SAMPLES = sorted(Path(__file__).parents[1].glob("configs/*.yaml"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_sample_configs(path: Path, schema_errors: Any) -> None:
    assert load_config(path).config
    assert schema_errors(path.read_text()) == []


def test_json_schema_accepts_all_spellings(schema_errors: Any) -> None:
    assert schema_errors(LENET) == []
    assert schema_errors(dump(parse(LENET))) == []


@pytest.mark.parametrize(
    ("written", "typo"),
    [
        ("- relu", "- rleu"),
        ("- relu", "- dense"),
        ("- relu", "- relu: 3"),
        ("filters: 6", "fitlers: 6"),
        ("type: conv2d, filters: 16", "type: conv2d, fitlers: 16"),
        ("type: conv2d, ", ""),
        ("conv2d: {filters: 6", "conv2d: {type: conv2d, filters: 6"),
        ("- dense: 10", "- {dense: 10, relu: }"),
        ("- dense: 10", "- dense: 0"),
        ("loss: softmax", "loss: sotfmax"),
        ("type: sgd", "type: sdg"),
        ("seed: 7", "sed: 7"),
        ("seed: 7", "seed: -7"),
        ("epochs: 3", "epochs: 3.5"),
    ],
)
def test_json_schema_rejects(written: str, typo: str, schema_errors: Any) -> None:
    assert LENET.count(written) >= 1
    assert schema_errors(LENET.replace(written, typo)) != []


def test_json_schema_describes_the_fields() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["properties"]["seed"]["description"] == Config.descriptions()["seed"]
    undescribed = [
        f"{name}.{key}"
        for name, definition in schema["$defs"].items()
        for key, field in definition.get("properties", {}).items()
        if "description" not in field and key != "type"
    ]
    assert undescribed == []
