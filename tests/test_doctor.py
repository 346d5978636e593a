"""The sanity battery: each finding seen in a config made to provoke it, and absent in a healthy one."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import TINY, nnjit
from numpy.typing import NDArray

from nnjit.doctor.compiler import fuses
from nnjit.doctor.finding import graded, within
from nnjit.doctor.guess import GUESSES, guess
from nnjit.losses import BinaryCrossEntropy, HalfSquaredError, Loss, MeanSquaredError, SoftmaxCrossEntropy

HEALTHY = {
    "data.shape": "[1, 8, 8]",
    "model": "[flatten, dense: 12, tanh, dense: 10]",
    "optimizer": "{learning_rate: 0.05, momentum: 0.5}",
}
"""What makes the tiny config one without a warning: its digits are images, whose rim may be blank."""

LAYERS = "model=[flatten, dense: {{units: 12, {}}}, {}, dense: {{units: 10, {}}}]"
RELU = LAYERS.format("", "relu", "")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a config in it."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    return tmp_path


def examine(*settings: str, code: int | None = None) -> dict[str, dict[str, str]]:
    """What is found in the healthy config with other settings, by check: the worst for one that comes twice."""
    words = [word for setting in (*(f"{k}={v}" for k, v in HEALTHY.items()), *settings) for word in ("--set", setting)]
    result = nnjit("doctor", "tiny.yaml", "--json", *words)
    found = json.loads(result.stdout)
    problems = sum(finding["verdict"] == "problem" for finding in found)
    assert result.exit_code == (5 if problems else 0), result.stderr
    severity = ["skipped", "ok", "warning", "problem"]
    return {finding["check"]: finding for finding in sorted(found, key=lambda f: severity.index(f["verdict"]))}


def told(found: dict[str, dict[str, str]], check: str) -> tuple[str, str, str]:
    return found[check]["verdict"], found[check]["reason"], found[check]["remedy"]


def test_a_healthy_config() -> None:
    found = examine()
    assert {check: finding["reason"] for check, finding in found.items()} == {
        "classes": "4 samples of class '8' to 9 of class '0', 10 classes",
        "targets follow inputs": "95% of 64 samples have the class of the nearest other, where chance gives 11%",
        "repeated samples": "no two of 64 training samples have the same input",
        "validation apart from train": "none of 32 validation samples has the input of a training sample",
        "test apart from train": "none of 32 test samples has the input of a training sample",
        "constant inputs": "12 of 64 numbers are the same in every training sample: 0, 8, 15, 16, 23 and 7 more",
        "scale of inputs": "the network sees numbers of size 0.488 (root of the mean square); "
        "column 7 spans 0.0625, column 2 1",
        "loss at the start": found["loss at the start"]["reason"],
        "first steps": found["first steps"]["reason"],
        "gradients": "reach all 4 parameter tensors in 20 steps",
        "updates": "19% of the entries of layers.1.weight stay as they are in 20 steps, the most of all",
        "update to weight": found["update to weight"]["reason"],
        "saturated units": found["saturated units"]["reason"],
        "a few samples": found["a few samples"]["reason"],
    }
    assert {(finding["verdict"], finding["remedy"]) for finding in found.values()} == {("ok", "")}


def test_a_cpu_without_fused_multiply_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before anything else, since all that follows takes long there."""
    monkeypatch.setattr("nnjit.doctor.compiler.fuses", lambda name, features: False)
    first = json.loads(nnjit("doctor", "tiny.yaml", "--json").stdout)[0]
    assert (first["check"], first["verdict"]) == ("compiler", "warning")
    assert " without fma: every multiply-add calls a function" in first["reason"]
    assert "1 to 2 GFLOP/s" in first["remedy"]


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names are those of x86 processors")
@pytest.mark.parametrize(
    ("name", "features", "expected"),
    [
        ("nehalem", "+sse4.2", False),
        ("sandybridge", "+avx", False),
        ("haswell", "", True),
        ("haswell", "-fma", False),
        ("x86-64", "+fma", True),
    ],
)
def test_which_cpus_fuse_multiply_adds(name: str, features: str, expected: bool) -> None:
    assert fuses(name, features) is expected


def test_nothing_is_written() -> None:
    examine()
    assert [path.name for path in Path().iterdir()] == ["tiny.yaml"]


# The network and its first steps


@pytest.mark.parametrize(
    "settings, check, verdict, reason, remedy",
    [
        (
            [LAYERS.format("", "tanh", "weight_init: {normal: 30.0}")],
            "loss at the start", "problem",
            "85.77 on 64 samples, where guessing gives 2.303: the log of the number of classes",
            "a smaller weight_init in the last layer, or smaller inputs (data.standardize, data.divide)",
        ),
        (
            [RELU, "optimizer.learning_rate=1e30"],
            "first steps", "problem", "the loss stops being finite in step 2",
            "an optimizer.learning_rate below 1e+30",
        ),
        (
            ["optimizer.learning_rate=2"],
            "first steps", "warning", "the loss goes from 2.659 to 9.765 in 20 steps",
            "an optimizer.learning_rate below 2.0",
        ),
        (
            ["optimizer.learning_rate=5"],
            "first steps", "problem", "the loss goes from 2.659 to 42.56 in 20 steps",
            "an optimizer.learning_rate below 5.0",
        ),
        (
            [LAYERS.format("bias_init: {constant: -100.0}", "relu", "")],
            "gradients", "problem",
            "zero in 20 steps for layers.1.weight, layers.1.bias, layers.3.weight",
            "look at the units after them: all may be off or flat, or their weights zero",
        ),
        (
            [LAYERS.format("bias_init: {constant: -100.0}", "relu", "")],
            "updates", "warning",
            "100% of the entries of layers.1.weight stay as they are in 20 steps, the most of all",
            "look at constant inputs, dead units and few samples",
        ),
        (
            [LAYERS.format("bias_init: {constant: -100.0}", "relu", "")],
            "dead units", "problem", "model[2].relu: 12 of 12 units are zero for all 64 samples at the start",
            "a larger bias_init, another weight_init, or scaled inputs",
        ),
        (
            [RELU, "optimizer.learning_rate=5"],
            "dead units", "problem", "model[2].relu: 12 of 12 units are zero for all 64 samples after 20 steps",
            "a smaller optimizer.learning_rate",
        ),
        (
            ["optimizer.learning_rate=1e-9"],
            "updates", "problem",
            "99% of the entries of layers.1.weight stay as they are in 20 steps, the most of all, "
            "81% though they have a gradient",
            "a larger optimizer.learning_rate: rounding swallows these updates",
        ),
        (
            ["optimizer.learning_rate=1e-9"],
            "update to weight", "warning",
            "median update of 3.2e-11 (layers.1.weight) to 4.1e-11 (layers.3.weight) times the weights in 20 steps; "
            "about 1e-4 to 1e-2 is usual",
            "an optimizer.learning_rate above 1e-09, or a smaller weight_init",
        ),
        (
            [RELU, "optimizer.learning_rate=1e30"],
            "update to weight", "problem",
            "median update of 1.4e+29 (layers.3.weight) to 2.0e+29 (layers.1.weight) times the weights in 1 step; "
            "about 1e-4 to 1e-2 is usual",
            "an optimizer.learning_rate below 1e+30, or a larger weight_init",
        ),
        (
            [LAYERS.format("weight_init: {normal: 30.0}", "tanh", "")],
            "saturated units", "problem", "model[2].tanh: 99% of the outputs are saturated for 64 samples at the start",
            "weight_init: glorot_normal, or scaled inputs",
        ),
        (
            [LAYERS.format("weight_init: {normal: 30.0}", "sigmoid", "")],
            "saturated units", "problem",
            "model[2].sigmoid: 97% of the outputs are saturated for 64 samples at the start",
            "weight_init: glorot_normal, or scaled inputs",
        ),
        (
            [RELU, "optimizer.learning_rate=1e30"],
            "a few samples", "problem",
            "16 samples not learned in 2 steps: the loss is nan, expected 0.12 (5% of guessing); "
            "learning rate 0.1 learns them in 147",
            "set optimizer.learning_rate: 0.1",
        ),
        (
            ["optimizer.learning_rate=0.0005"],
            "a few samples", "warning",
            "16 samples not learned in 1000 steps: the loss is 2.154, expected 0.12 (5% of guessing); "
            "learning rate 0.05 learns them in 225",
            "set optimizer.learning_rate: 0.05",
        ),
        (
            [LAYERS.format("bias_init: {constant: -100.0}", "relu", "")],
            "a few samples", "problem",
            "16 samples not learned in 1000 steps: the loss is 2.253, expected 0.12 (5% of guessing), "
            "nor with learning rates of 0.0005, 0.005, 0.01, 0.1, 0.5, 5",
            "a larger network, another weight_init, scaled inputs",
        ),
    ],
)  # fmt: skip
def test_what_the_first_steps_show(settings: list[str], check: str, verdict: str, reason: str, remedy: str) -> None:
    assert told(examine(*settings), check) == (verdict, reason, remedy)


# Data


def tables(inputs: NDArray[Any], targets: NDArray[Any], **others: tuple[NDArray[Any], NDArray[Any]]) -> None:
    """A config of a small table, with the splits that are given."""
    sources = ""
    for name, (x, y) in {"train": (inputs, targets), **others}.items():
        np.savez(f"{name}.npz", inputs=x.astype(np.float32), targets=y)
        sources += f"  {name}: {{file: {name}.npz}}\n"
    labels = targets.dtype.kind == "i"
    loss, units = ("softmax_cross_entropy", int(targets.max()) + 1) if labels else ("mean_squared_error", 1)
    Path("table.yaml").write_text(
        f"data:\n{sources}model: [dense: 8, tanh, dense: {units}]\nloss: {loss}\n"
        "optimizer: {learning_rate: 0.1, momentum: 0.5}\ntrain: {epochs: 1, batch_size: 8}\n"
    )


def examine_table(*settings: str) -> dict[str, dict[str, str]]:
    words = [word for setting in settings for word in ("--set", setting)]
    result = nnjit("doctor", "table.yaml", "--json", *words)
    assert result.exit_code in (0, 5), result.stderr
    return {finding["check"]: finding for finding in json.loads(result.stdout)}


def points(samples: int = 40) -> tuple[NDArray[Any], NDArray[Any]]:
    """Three numbers around 0, and on which side their sum lies."""
    x = np.random.default_rng(4).standard_normal((samples, 3))
    return x, (x.sum(axis=1) > 0).astype(np.int32)


def test_a_healthy_table() -> None:
    x, y = points(90)
    tables(x[:80], y[:80], test=(x[80:], y[80:]))
    found = examine_table()
    assert {finding["verdict"] for finding in found.values()} == {"ok"}
    assert found["constant inputs"]["reason"] == "none of 3 numbers is the same in every training sample"


def test_a_class_without_samples() -> None:
    found = examine("data.train.rows=[0, 8]", "data.classes=10", "train.batch_size=8")
    assert told(found, "classes") == (
        "problem", "no sample of class 8, 9 among 8 training samples",
        "take such a class out of data.classes, or give it samples",
    )  # fmt: skip


def test_a_rare_class() -> None:
    x, y = points()
    y[:], y[:3] = 0, 1
    tables(x, y)
    assert told(examine_table(), "classes") == (
        "warning", "3 samples of class '1' to 37 of class '0', 2 classes",
        "collect or repeat samples of rare classes; accuracy says little about them",
    )  # fmt: skip


@pytest.mark.parametrize("numbers", [False, True])
def test_targets_shuffled_against_the_inputs(numbers: bool) -> None:
    """Which a network can learn by heart all the same."""
    x, y = points(200)
    targets = x.sum(axis=1, keepdims=True).astype(np.float32) if numbers else y
    tables(x, targets)
    verdict, reason, remedy = told(examine_table(), "targets follow inputs")
    right = (
        "the targets of 200 samples correlate by 0.97 with those of the nearest other"
        if numbers
        else "94% of 200 samples have the class of the nearest other, where chance gives 50%"
    )
    assert (verdict, reason, remedy) == ("ok", right, "")
    tables(x, np.random.default_rng(5).permutation(targets))
    found = examine_table()
    verdict, reason, remedy = told(found, "targets follow inputs")
    wrong = right.replace("0.97", "-0.12").replace("94%", "48%")
    assert (verdict, reason) == ("warning", wrong)
    assert remedy == "see whether inputs and targets are in the same order: they look shuffled against each other"
    assert found["a few samples"]["verdict"] == "ok"


def test_a_unit_of_a_column_hides_no_relation() -> None:
    x, y = points(200)
    tables(np.hstack([x, 1e4 * np.random.default_rng(6).standard_normal((200, 1))]), y)
    assert examine_table()["targets follow inputs"]["verdict"] == "ok"


def test_samples_that_are_too_few_to_tell() -> None:
    """What all of them have in common may be chance: nothing is said of it, and nothing fails."""
    tables(np.array([[0.5, 1.0], [0.5, 2.0]]), np.array([[1.0], [1.0]], np.float32))
    found = examine_table("train.batch_size=2")
    assert {check: f["reason"] for check, f in found.items() if f["verdict"] == "skipped"} == {
        "targets": "1 of 1 targets the same in every training sample: 0; 2 samples are too few to tell",
        "targets follow inputs": "2 samples: too few to compare each with the nearest",
        "constant inputs": "1 of 2 numbers are the same in every training sample: 0; 2 samples are too few to tell",
    }
    assert {f["verdict"] for f in found.values()} == {"ok", "skipped"}
    assert all(f["remedy"] == "" for f in found.values())
    dead = "model=[dense: {units: 2, bias_init: {constant: -9}}, relu, dense: {units: 1, bias_init: {constant: 1}}]"
    found = examine_table("train.batch_size=1", "data.train.rows=[0, 1]", dead)
    assert told(found, "dead units") == (
        "skipped", "model[1].relu: 2 of 2 units are zero for 1 sample at the start; 1 sample is too few to tell", "",
    )  # fmt: skip
    assert told(found, "repeated samples") == ("skipped", "there is 1 training sample", "")
    assert found["a few samples"]["reason"].startswith("1 sample learned to a loss of ")


def test_the_worked_example_has_no_problem() -> None:
    """Its one sample is no fault of it."""
    path = Path(__file__).parents[1] / "configs" / "two-layer.yaml"
    result = nnjit("doctor", path, "--json")
    assert result.exit_code == 0
    verdicts = [(f["check"], f["verdict"]) for f in json.loads(result.stdout) if f["verdict"] != "ok"]
    assert verdicts == [(check, "skipped") for check in
                        ("targets", "targets follow inputs", "repeated samples", "constant inputs")]  # fmt: skip


def test_outputs_that_are_far_out_on_the_right_side_are_no_fault() -> None:
    x, y = points(60)
    x[np.arange(60), 0] = np.where(y, 9.0, -9.0) + 0.1 * x[:, 1]
    tables(x, y)
    last = "model=[dense: {{units: 2, weight_init: {{values: [[{0}, 0, 0], [{1}, 0, 0]]}}}}, sigmoid]"
    settings = "loss=half_squared_error", "data.classes=2", "optimizer.learning_rate=0.001"
    for weights, verdict, share in (((-1, 1), "ok", "0%"), ((1, -1), "problem", "100%")):
        assert told(examine_table(*settings, last.format(*weights)), "saturated units")[:2] == (
            verdict, f"model[1].sigmoid: {share} of the outputs are saturated on the wrong side "
            "for 60 samples at the start",
        )  # fmt: skip


def test_samples_that_are_learned_in_part() -> None:
    """Three weights and a bias do not hold 16 numbers, but most of what these have in common."""
    x, _ = points(60)
    noise = 0.7 * np.random.default_rng(7).standard_normal((60, 1))
    tables(x, (x.sum(axis=1, keepdims=True) + noise).astype(np.float32))
    verdict, reason, remedy = told(examine_table("model=[dense: 1]"), "a few samples")
    assert (verdict, remedy) == ("warning", "a larger network, another weight_init, scaled inputs")
    assert reason == (
        "16 samples not learned in 1000 steps: the loss is 0.496, expected 0.2 (5% of guessing), "
        "nor with learning rates of 0.001, 0.01, 0.1, 1, 10"
    )


def test_repeated_samples() -> None:
    x, y = points()
    x[5], y[5] = x[2], y[2]
    tables(x, y)
    assert told(examine_table(), "repeated samples") == (
        "warning", "1 of 40 training samples are copies of others, such as row 5 of data.train of row 2 of data.train",
        "leave copies out, unless they are to count more",
    )  # fmt: skip


def test_one_input_with_two_targets() -> None:
    x, y = points()
    x[5], y[5] = x[2], 1 - y[2]
    tables(x, y)
    assert told(examine_table("data.train.rows=[2, 40]"), "repeated samples") == (
        "problem", "2 of 38 training samples have the input of another but not its target, "
        "such as row 2 of data.train and row 5 of data.train",
        "correct such targets, or leave the samples out",
    )  # fmt: skip


def test_samples_in_two_splits() -> None:
    x, y = points()
    tables(x[:30], y[:30], test=(x[29:], y[29:]))
    found = examine_table("data.validation={fraction: 0.2}")
    assert told(found, "test apart from train") == (
        "problem", "1 of 11 test samples have the input of a training sample, "
        "such as row 0 of data.test that of row 29 of data.train",
        "leave them out of one of the two: test scores flatter",
    )  # fmt: skip
    assert found["validation apart from train"]["verdict"] == "ok"


def test_constant_columns() -> None:
    x, y = points()
    x[:, 1] = 2
    tables(x, y)
    assert told(examine_table(), "constant inputs") == (
        "warning", "1 of 3 numbers are the same in every training sample: 1",
        "leave these columns out: they say nothing",
    )  # fmt: skip
    x[:] = 2
    tables(x, y)
    assert told(examine_table(), "constant inputs") == (
        "problem", "3 of 3 numbers are the same in every training sample: 0, 1, 2",
        "check data.train: its samples do not differ",
    )  # fmt: skip


def test_columns_of_different_scales() -> None:
    x, y = points()
    x[:, 2] *= 300
    tables(x, y)
    verdict, reason, remedy = told(examine_table(), "scale of inputs")
    assert (verdict, remedy) == ("warning", "set data.standardize: column")
    assert reason.startswith("the network sees numbers of size 170 (root of the mean square); column 0 spans ")
    assert examine_table("data.standardize=column")["scale of inputs"]["verdict"] == "ok"


@pytest.mark.parametrize(
    "divide, verdict, size", [(1, "warning", "7.8"), (1e-4, "problem", "7.8e+04"), (1e5, "problem", "7.8e-05")]
)
def test_unscaled_inputs(divide: float, verdict: str, size: str) -> None:
    found = told(examine(f"data.divide={divide}"), "scale of inputs")
    assert found[0] == verdict and found[2] == "set data.standardize: all, or data.divide"
    assert found[1].startswith(f"the network sees numbers of size {size} (root of the mean square); column 7 spans ")


def test_targets_that_are_numbers() -> None:
    x, _ = points(60)
    tables(x, (x.sum(axis=1, keepdims=True) * 4 + 100).astype(np.float32))
    found = examine_table("optimizer.learning_rate=0.001")
    assert found["targets"]["reason"] == "1 a sample, with deviations from 7.38 to 7.38"
    assert found["loss at the start"]["remedy"] == "set data.standardize_targets: true"
    assert "the cost of predicting the mean" in found["loss at the start"]["reason"]
    small = "model=[dense: 8, tanh, dense: {units: 1, weight_init: {normal: 0.1}}]"
    found = examine_table("data.standardize_targets=true", small)
    assert {finding["verdict"] for finding in found.values()} == {"ok"}


def test_targets_that_do_not_change() -> None:
    x, _ = points()
    tables(x, np.full((40, 1), 3, np.float32))
    assert told(examine_table(), "targets") == (
        "problem", "1 of 1 targets the same in every training sample: 0",
        "check data.train.target; there is nothing to learn in them",
    )  # fmt: skip


def test_a_loss_that_is_too_good() -> None:
    """The input is the logit of its own label already."""
    labels = np.tile(np.array([0, 1], np.int32), 20)
    tables(np.where(labels, 4.0, -4.0)[:, None] + np.linspace(0, 1, 40)[:, None], labels)
    found = examine_table(
        "loss=binary_cross_entropy", "data.classes=2", "model=[dense: {units: 1, weight_init: {constant: 1.0}}]"
    )
    verdict, reason, remedy = told(found, "loss at the start")
    assert (verdict, remedy) == ("warning", "check that the inputs do not hold the targets")
    assert reason.endswith(" on 40 samples, where guessing gives 0.6931: log 2 for each output")


# Parts


@pytest.mark.parametrize(
    "loss, cost",
    [(SoftmaxCrossEntropy(), np.log(2)), (BinaryCrossEntropy(), 2 * np.log(2)), (HalfSquaredError(), 5 / 8),
     (MeanSquaredError(), 5 / 8)],
)  # fmt: skip
def test_what_guessing_costs(loss: Loss, cost: float) -> None:
    found = guess(loss, np.array([[0.0, 1.0], [0.0, 3.0], [1.0, 1.0], [1.0, 3.0]]))
    assert found is not None and found[1] == pytest.approx(cost)


def test_guessing_is_known_for_every_loss_and_costs_nothing_where_targets_are_equal() -> None:
    assert set(GUESSES) == set(Loss.kinds())
    assert guess(MeanSquaredError(), np.ones((4, 2))) is None


def test_verdicts() -> None:
    assert [graded(x, 1, 2) for x in (0.5, 1.0, 1.5, 2.5, np.nan)] == ["ok", "ok", "warning", "problem", "problem"]
    bounds = (0.1, 1.0), (0.01, 10.0)
    assert [within(x, *bounds) for x in (0.001, 0.05, 0.1, 1.0, 5.0, 50.0, np.nan)] == [
        "problem", "warning", "ok", "ok", "warning", "problem", "problem",
    ]  # fmt: skip
