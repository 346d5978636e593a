"""`nnjit evaluate` and `nnjit predict`: from a checkpoint alone, through pipes, with bad input."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import DIGITS, TINY, command, environment, nnjit, without_compiling
from safetensors.numpy import load_file, save_file

from nnjit import trained as trained_model
from nnjit.checkpoint import Checkpoint, read_checkpoint


def table(name: str, rows: int) -> list[list[str]]:
    """The first rows of a digits file without the header, and without the label at the end of each."""
    with open(DIGITS / f"{name}.csv", encoding="utf-8", newline="") as file:
        return [row[:-1] for row in list(csv.reader(file))[1 : rows + 1]]


def as_csv(rows: list[list[str]]) -> str:
    return "".join(",".join(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the tiny config."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    assert nnjit("train", folder / "tiny.yaml", "--quiet", "--out", folder / "run").exit_code == 0
    return folder / "run"


@pytest.fixture
def model(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The best checkpoint alone, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(trained / "best.safetensors", "model.safetensors")
    return "model.safetensors"


def refused(result: Any, code: int, message: str, stdout: str = "") -> None:
    assert (result.exit_code, result.stdout, without_compiling(result.stderr)) == (code, stdout, f"error: {message}\n")


def logits(checkpoint: Checkpoint, rows: list[list[str]]) -> Any:
    """The outputs of the tiny network by plain NumPy."""
    x = np.array(rows, np.float64) / 16
    p = checkpoint.parameters
    hidden = np.maximum(x @ p["layers.0.weight"].T + p["layers.0.bias"], 0)
    return hidden @ p["layers.2.weight"].T + p["layers.2.bias"]


def softmax(outputs: Any) -> Any:
    e = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_evaluate_needs_the_checkpoint_alone(model: str) -> None:
    result = nnjit("evaluate", model, "--json")
    assert result.exit_code == 0
    scores = json.loads(result.stdout)
    labels = [int(row.rsplit(",", 1)[1]) for row in (DIGITS / "test.csv").read_text().splitlines()[1:33]]
    p = softmax(logits(read_checkpoint(Path(model)), table("test", 32)))
    assert scores["split"] == "test"
    assert scores["loss"] == pytest.approx(-np.log(p[range(32), labels]).mean(), rel=1e-5)
    assert scores["accuracy"] == (p.argmax(axis=1) == labels).mean()


def test_evaluate_prints_names_and_values(model: str) -> None:
    scores = json.loads(nnjit("evaluate", model, "--json", "--split", "train").stdout)
    assert nnjit("evaluate", model, "--split", "train").stdout == (
        f"loss {scores['loss']:.6g}\naccuracy {scores['accuracy']:.6g}\n"
    )


def test_evaluate_gives_what_training_wrote(trained: Path) -> None:
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    best = min(records, key=lambda record: record["validation_loss"])
    scores = json.loads(nnjit("evaluate", trained, "--json", "--split", "validation").stdout)
    assert (scores["loss"], scores["accuracy"]) == (best["validation_loss"], best["validation_accuracy"])


def test_evaluate_on_other_files(model: str) -> None:
    shutil.copy(DIGITS / "validation.csv", "new.csv")
    other = nnjit("evaluate", model, "--set", "data.test.file=new.csv", "--set", "data.test.rows=[0, 32]")
    assert other.stdout == nnjit("evaluate", model, "--split", "validation").stdout


def test_evaluate_overrides_the_data_sources_alone(model: str) -> None:
    refused(
        nnjit("evaluate", model, "--set", "model.0.units=3"),
        2,
        "--set model[0].units: expected a key of data.train, data.validation or data.test; "
        "a trained network keeps all else",
    )


def test_evaluate_without_such_a_split(model: str) -> None:
    refused(
        nnjit("evaluate", model, "--set", "data.test=null"),
        2,
        "data.test: expected a source, since the test split is asked for; the config has none",
    )
    refused(
        nnjit("evaluate", model, "--set", "data.test.file=gone.csv"),
        3,
        "gone.csv: no such file",
    )


def test_evaluate_wants_targets(model: str) -> None:
    Path("inputs.csv").write_text(as_csv(table("test", 5)))
    source = "data.test={file: inputs.csv, target: null}"
    refused(
        nnjit("evaluate", model, "--set", source),
        3,
        "data.test: expected targets beside the inputs, got inputs alone",
    )


@pytest.mark.parametrize("subcommand", ["evaluate", "predict"])
def test_checkpoints_that_cannot_be_used(model: str, subcommand: str) -> None:
    refused(nnjit(subcommand, "gone"), 3, "gone: expected a checkpoint, found no such file")
    Path("run").mkdir()
    refused(nnjit(subcommand, "run"), 3, "run/best.safetensors: expected a checkpoint, found no such file")

    whole = Path(model).read_bytes()
    Path("short.safetensors").write_bytes(whole[:-100])
    refused(
        nnjit(subcommand, "short.safetensors"),
        3,
        "short.safetensors: expected a checkpoint, got a damaged or incomplete file "
        "(Error while deserializing header: incomplete metadata, file not fully covered)",
    )
    Path("flipped.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(
        nnjit(subcommand, "flipped.safetensors"),
        3,
        "flipped.safetensors: expected a checkpoint, got damaged contents "
        "(the tensors do not have the digest that was written with them)",
    )
    save_file(load_file(model), "newer.safetensors", {"format": "2", "nnjit": "{}"})
    refused(
        nnjit(subcommand, "newer.safetensors"),
        3,
        "newer.safetensors: expected checkpoint format 1, got 2; read it with the version of nnjit that wrote it",
    )


def test_predict_from_standard_input_gives_classes(model: str) -> None:
    rows = table("test", 300)
    result = nnjit("predict", model, stdin=as_csv(rows))
    expected = logits(read_checkpoint(Path(model)), rows).argmax(axis=1)
    assert (result.exit_code, without_compiling(result.stderr)) == (0, "")
    assert result.stdout == "class\n" + "".join(f"{label}\n" for label in expected)


def test_predict_probabilities_as_csv_and_as_json_lines(model: str) -> None:
    rows = table("test", 5)
    Path("in.csv").write_text(",".join(f"p{i}" for i in range(64)) + "\n" + as_csv(rows))
    expected = softmax(logits(read_checkpoint(Path(model)), rows))
    found = list(csv.reader(io.StringIO(nnjit("predict", model, "in.csv", "--probabilities").stdout)))
    assert found[0] == ["class", *map(str, range(10))]
    np.testing.assert_allclose(np.array(found[1:], np.float64)[:, 1:], expected, rtol=1e-4, atol=1e-7)
    lines = nnjit("predict", model, "in.csv", "--probabilities", "--format", "jsonl").stdout.splitlines()
    for line, row in zip(lines, found[1:], strict=True):
        answer = json.loads(line)
        assert answer["class"] == row[0]
        assert list(answer["probabilities"].values()) == [float(cell) for cell in row[1:]]
    plain = nnjit("predict", model, "in.csv", "--format", "jsonl").stdout.splitlines()
    assert plain == [json.dumps({"class": row[0]}) for row in found[1:]]


def test_predict_reads_npy_from_a_pipe_and_answers_alike(model: str) -> None:
    rows = table("test", 40)
    pipe = io.BytesIO()
    np.save(pipe, np.array(rows, np.uint8))
    as_bytes = nnjit("predict", model, "--probabilities", "--block", 7, stdin=pipe.getvalue())
    assert as_bytes.stdout == nnjit("predict", model, "--probabilities", stdin=as_csv(rows)).stdout


@pytest.mark.parametrize(
    ("rows", "block", "batch_size"), [(3, 256, 16), (40, 256, 48), (40, 20, 32), (40, 15, 15), (3, 1, 1)]
)
def test_predict_computes_no_more_at_once_than_is_asked_for(
    model: str, rows: int, block: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whole blocks, whose kernels are there, unless blocks are smaller."""
    made = []

    class Recorded(trained_model.Prediction):
        def __init__(self, *arguments: Any) -> None:
            made.append(arguments[-1])
            super().__init__(*arguments)

    monkeypatch.setattr(trained_model, "Prediction", Recorded)
    result = nnjit("predict", model, "--block", block, stdin=as_csv(table("test", rows)))
    answers = logits(read_checkpoint(Path(model)), table("test", rows)).argmax(axis=1)
    assert result.stdout == "class\n" + "".join(f"{label}\n" for label in answers)
    assert made == [batch_size]


def test_predict_of_a_header_alone_is_a_header(model: str) -> None:
    result = nnjit("predict", model, stdin=",".join(f"p{i}" for i in range(64)) + "\n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "class\n", "")


def test_predict_answers_up_to_the_line_that_is_wrong(model: str) -> None:
    rows = table("test", 3)
    rows[2][5] = "x"
    result = nnjit("predict", model, "--block", 1, stdin=as_csv(rows))
    answers = logits(read_checkpoint(Path(model)), rows[:2]).argmax(axis=1)
    message = "standard input:3: column 5 (from 0): expected a number, got 'x'"
    refused(result, 3, message, stdout="class\n" + "".join(f"{label}\n" for label in answers))


def test_predict_refuses_numbers_too_large_to_answer(model: str) -> None:
    inputs = np.zeros((3, 64))
    inputs[2, 5] = 1e39
    np.save("big.npy", inputs)
    refused(
        nnjit("predict", model, "big.npy", "--probabilities"),
        3,
        "big.npy: row 2 (from 0), entry (5,): expected a finite number of at most 3.4e+38, got 1e+39",
    )


def test_predict_of_a_file_that_is_not_there(model: str) -> None:
    refused(nnjit("predict", model, "gone.csv"), 3, "gone.csv: no such file")


def test_predict_wants_as_many_columns_as_the_network_has_inputs(model: str) -> None:
    refused(
        nnjit("predict", model, stdin="1,2,3\n"),
        3,
        "standard input:1: expected 64 columns for inputs of shape (64,), got 3",
    )


def test_predict_answers_every_line_as_it_comes_and_ends_quietly_when_nobody_reads(model: str) -> None:
    line = as_csv(table("test", 1))
    process = subprocess.Popen(
        command("predict", model, "--block", 1), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment(),
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    for _ in range(3):
        process.stdin.write(line)
        process.stdin.flush()
        if _ == 0:
            assert process.stdout.readline() == "class\n"
        assert process.stdout.readline().strip().isdecimal()
    process.stdout.close()
    with suppress(BrokenPipeError):
        for _ in range(10_000):
            process.stdin.write(line)
            process.stdin.flush()
    with suppress(BrokenPipeError):
        process.stdin.close()
    with process.stderr:
        assert without_compiling(process.stderr.read()) == ""
    process.wait(60)
    assert process.returncode == 0


def numbers_config(**changes: str) -> str:
    sections = {
        "data": "{train: {file: t.csv, target: [y, z]}, standardize: column, standardize_targets: true}",
        "model": "[dense: 2]",
        "loss": "half_squared_error",
        "optimizer": "{learning_rate: 0.1}",
        "train": "{epochs: 60, batch_size: 8}",
    }
    return "".join(f"{name}: {value}\n" for name, value in {**sections, **changes}.items())


def test_predict_gives_numbers_in_the_units_of_the_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    a, b = np.random.default_rng(5).normal(size=(2, 64))
    Path("t.csv").write_text(
        "a,b,y,z\n" + "".join(f"{s},{t},{1000 + 50 * s},{t - s}\n" for s, t in zip(a, b, strict=True))
    )
    Path("c.yaml").write_text(numbers_config())
    assert nnjit("train", "c.yaml", "--quiet").exit_code == 0
    result = nnjit("predict", "runs/c", stdin="0,0\n2,1\n")
    header, *rows = csv.reader(io.StringIO(result.stdout))
    assert header == ["y", "z"]
    np.testing.assert_allclose(np.array(rows, float), [[1000, 0], [1100, -1]], rtol=0.01, atol=0.05)
    lines = nnjit("predict", "runs/c", "--format", "jsonl", stdin="0,0\n2,1\n").stdout.splitlines()
    assert [list(json.loads(line).values()) for line in lines] == [[float(cell) for cell in row] for row in rows]
    refused(
        nnjit("predict", "runs/c", "--probabilities"),
        2,
        "--probabilities: expected a network that tells classes apart; this one predicts numbers",
    )
    # These are numbers of float32, what the network makes of them is none.
    refused(
        nnjit("predict", "runs/c", "--block", 2, stdin="0,0\n2,1\n0,0\n3e38,-3e38\n"),
        3,
        "row 3 (from 0) of the inputs: expected finite outputs, got inf; "
        "are they numbers like those of the training data?",
        stdout=result.stdout,
    )


@pytest.mark.parametrize(
    "loss, last",
    [
        ("binary_cross_entropy", "dense: 1"),
        ("binary_cross_entropy", "dense: 2"),
        ("softmax_cross_entropy", "dense: 2"),
        ("half_squared_error", "dense: 1"),
    ],
)
def test_predict_of_two_named_classes(loss: str, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("".join(f"{s},{'up' if s > 0 else 'down'}\n" for s in np.linspace(-2, 2, 40)))
    data = "{train: {file: t.csv}, classes: [down, up]}"
    Path("c.yaml").write_text(numbers_config(data=data, model=f"[{last}]", loss=loss))
    assert nnjit("train", "c.yaml", "--quiet", "--set", "train.batch_size=40").exit_code == 0
    rows = list(csv.reader(io.StringIO(nnjit("predict", "runs/c", "--probabilities", stdin="-2\n2\n").stdout)))
    assert rows[0] == ["class", "down", "up"]
    assert [row[0] for row in rows[1:]] == ["down", "up"]
    (down, up), (other_down, other_up) = np.array([row[1:] for row in rows[1:]], float)
    assert down > up and other_up > other_down
    if last == "dense: 1" or loss == "softmax_cross_entropy":
        assert (down + up, other_down + other_up) == pytest.approx((1, 1), abs=1e-6)
