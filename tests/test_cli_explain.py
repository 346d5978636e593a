"""`nnjit explain` on the command line: formats, files, exit codes and messages."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from command import DIGITS, TINY, nnjit, without_compiling

from nnjit.checkpoint import read_checkpoint
from nnjit.explain.figures import figure
from nnjit.layers.dense import Dense

TWO_LAYER = Path(__file__).parents[1] / "configs" / "two-layer.yaml"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A config named tiny.yaml in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    return "tiny.yaml"


def test_text_on_standard_output() -> None:
    result = nnjit("explain", TWO_LAYER)
    assert (result.exit_code, without_compiling(result.stderr)) == (0, "")
    assert result.stdout.startswith(f"{TWO_LAYER}, explained\n====")
    assert "    a⁽³⁾ = [ 0.751365070  0.772928465 ]\n" in result.stdout
    assert "22 derivatives were computed in three ways" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["--out", "it.html"], "<!DOCTYPE html>\n"),
        (["--out", "it.MD"], "# "),
        (["--out", "it"], f"{TWO_LAYER}, explained\n="),
        (["--out", "it.md", "--format", "html"], "<!DOCTYPE html>\n"),
    ],
)
def test_a_file_in_the_format_of_its_name(
    arguments: list[str], start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = nnjit("explain", TWO_LAYER, *arguments)
    assert (result.exit_code, result.stdout, without_compiling(result.stderr)) == (0, "", "")
    text = Path(arguments[1]).read_text(encoding="utf-8")
    assert text.startswith(start)
    if start.startswith("<"):
        ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def test_a_sample_and_a_layer(config: str) -> None:
    result = nnjit("explain", config, "--sample", "3", "--layer", "2")
    assert result.exit_code == 0
    assert "Sample 3 of the training split, of class 3, with the parameters that seed 3 draws." in result.stdout
    assert result.stdout.count("\nLayer 2: dense\n") == 2 and "Layer 1: relu\n" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sample", "64"], "Invalid value for --sample: expected 0 to 63, the samples of the train split, got 64"),
        (["--sample", "-1"], "Invalid value for --sample: expected 0 to 63, the samples of the train split, got -1"),
        (["--layer", "3"], "Invalid value for --layer: expected 0 to 2, the layers of the model, got 3"),
    ],
)
def test_what_is_not_there(config: str, arguments: list[str], message: str) -> None:
    result = nnjit("explain", config, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == f"Error: {message}"


@pytest.fixture
def run(config: str) -> Path:
    """The folder of a short run of that config."""
    assert nnjit("train", config, "--quiet", "--out", "run").exit_code == 0
    return Path("run")


@pytest.mark.parametrize("model", ["run", "run/best.safetensors", "run/last.safetensors"])
def test_a_trained_network(run: Path, model: str) -> None:
    result = nnjit("explain", model, "--split", "test", "--sample", "5")
    assert (result.exit_code, without_compiling(result.stderr)) == (0, "")
    path = run / "best.safetensors" if model == "run" else Path(model)
    checkpoint = read_checkpoint(path)
    assert result.stdout.startswith(f"{model}, explained\n====")
    words = " ".join(result.stdout.split())
    steps = checkpoint.progress.step
    assert "Sample 5 of the test split, of class " in words
    assert f", with the parameters in {path}, after step {steps}. All numbers" in words and steps > 0
    bias = "  ".join(figure(float(value)) for value in checkpoint.parameters["layers.2.bias"])
    assert "b⁽²⁾=[" + bias.replace(" ", "") + "]" in result.stdout.replace(" ", "")
    assert "All agree." in words


def test_what_a_trained_network_answers(run: Path) -> None:
    rows = (DIGITS / "test.csv").read_text().splitlines()[1:33]
    inputs = "\n".join(row.rpartition(",")[0] for row in rows) + "\n"
    answers = nnjit("predict", run, stdin=inputs).stdout.splitlines()[1:]
    right = [answer == row.rpartition(",")[2] for answer, row in zip(answers, rows, strict=True)]
    for sample in (right.index(True), right.index(False)):
        own = rows[sample].rpartition(",")[2]
        verdict = "and so it is" if right[sample] else f"but it is of class {own}"
        told = f"The network takes the sample for one of class {answers[sample]}, {verdict}."
        assert told in " ".join(nnjit("explain", run, "--split", "test", "--sample", sample).stdout.split())


def test_a_trained_network_whose_data_moved(run: Path) -> None:
    lines = (DIGITS / "train.csv").read_text().splitlines(keepends=True)
    Path("few.csv").write_text("".join(lines[:4]))
    settings = "--set", "data.train.file=few.csv", "--set", "data.train.rows=null"
    assert nnjit("explain", run, *settings, "--sample", 2, "--layer", 2).exit_code == 0
    result = nnjit("explain", run, *settings, "--sample", 3)
    message = "Error: Invalid value for --sample: expected 0 to 2, the samples of the train split, got 3"
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (2, message)
    result = nnjit("explain", run, "--set", "model.0.units=4")
    assert (result.exit_code, without_compiling(result.stderr)) == (
        2,
        "error: --set model[0].units: expected a key of data.train, data.validation or data.test; "
        "a trained network keeps all else\n",
    )
    Path("few.csv").unlink()
    result = nnjit("explain", run, *settings)
    assert (result.exit_code, without_compiling(result.stderr)) == (3, "error: few.csv: no such file\n")


def test_no_network_and_no_split(run: Path) -> None:
    empty = Path("empty")
    empty.mkdir()
    result = nnjit("explain", empty)
    assert (result.exit_code, without_compiling(result.stderr)) == (
        3, "error: empty/best.safetensors: expected a checkpoint, found no such file\n",
    )  # fmt: skip
    result = nnjit("explain", TWO_LAYER, "--split", "test")
    assert (result.exit_code, without_compiling(result.stderr)) == (
        2,
        "error: data.test: expected a source, since the test split is asked for; the config has none\n",
    )
    result = nnjit("explain", TWO_LAYER, "--sample", "1")
    message = "Error: Invalid value for --sample: expected 0, the only sample of the train split, got 1"
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (2, message)


def test_a_file_that_cannot_be_written(config: str) -> None:
    result = nnjit("explain", config, "--layer", "2", "--out", "no/such/folder.html")
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        without_compiling(result.stderr) == "error: no/such/folder.html: cannot be written: No such file or directory\n"
    )


def test_a_wrong_gradient_ends_with_exit_code_5(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Dense.equations

    def planted(layer: Dense, shape: tuple[int, ...]) -> object:
        found = honest(layer, shape)
        wrong = (item._replace(text=item.text.replace("dweight[f, d] =", "dweight[f, d] = 2 *")) for item in found[1])
        return found._replace(backward=tuple(wrong))

    monkeypatch.setattr(Dense, "equations", planted)
    result = nnjit("explain", TWO_LAYER)
    assert result.exit_code == 5
    assert "WRONG" in result.stdout
    assert without_compiling(result.stderr) == "error: 8 of 22 gradients are wrong\n"


@pytest.mark.parametrize(("command", "where"), [("explain", "sample 0 of the train split"), ("gradcheck", "step 0")])
def test_a_loss_that_is_not_finite(command: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones((4, 3)))
    np.save("y.npy", np.zeros((4, 2)))
    Path("large.yaml").write_text(
        "data: {train: {inputs: x.npy, targets: y.npy}, divide: 1.0e-200}\nmodel: [dense: 2]\n"
        "loss: mean_squared_error\noptimizer: {learning_rate: 0.1}\ntrain: {precision: float64, batch_size: 4}\n"
    )
    result = nnjit(command, "large.yaml")
    purpose = "explain" if command == "explain" else "check gradients of"
    assert (result.exit_code, result.stdout) == (4, "")
    assert without_compiling(result.stderr) == (
        f"error: {where}: expected a finite loss to {purpose}, got inf; "
        "scale the data down (data.divide, data.standardize) or use smaller parameters\n"
    )


def test_values_of_another_shape_are_refused_where_they_stand(tmp_path: Path) -> None:
    text = TWO_LAYER.read_text().replace("../data", str(TWO_LAYER.parents[1] / "data"))
    path = tmp_path / "wrong.yaml"
    path.write_text(text.replace("[[0.40, 0.45], [0.50, 0.55]]", "[[0.40, 0.45, 0.50], [0.50, 0.55, 0.60]]"))
    result = nnjit("check", path)
    assert result.exit_code == 2
    expected = "expected values of shape (2, 2) for the weight, got shape (2, 3)"
    assert result.stderr == f"error: {path}:12:5: model[2].dense: {expected}\n"


def test_the_worked_example_trains(tmp_path: Path) -> None:
    result = nnjit("train", TWO_LAYER, "--out", tmp_path / "run", "--set", "train.epochs=2", "--quiet")
    assert (result.exit_code, without_compiling(result.stderr)) == (0, "")
