"""The command line as a whole: help, versions, exit codes, and what `check`, `summary`, `info` and others print."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command import DIGITS, TINY, command, environment, nnjit, process, without_compiling
from numba.core import event

import nnjit as package
from nnjit.cli import COMMANDS
from nnjit.cli.compiling import compiling
from nnjit.cli.starting import collecting_rarely
from nnjit.cli.text import in_bytes
from nnjit.layers import Layer
from nnjit.losses import Loss
from nnjit.warmup import examples


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A config named tiny.yaml in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    return "tiny.yaml"


def test_version() -> None:
    result = nnjit("--version")
    assert (result.exit_code, result.stdout) == (0, f"nnjit {package.__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_nothing_that_is_slow_to_load(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom nnjit.cli import main\n"
        f"try: main({arguments})\nfinally: print(*(n for n in sys.modules if '.' not in n), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(), timeout=60
    )
    loaded = set(done.stderr.split())
    assert "click" in loaded
    assert not loaded & {"numba", "numpy", "pydantic", "yaml", "tqdm", "safetensors"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_begins_like_its_line_in_the_list(name: str) -> None:
    result = nnjit(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.split("\n\n")[1].strip() == COMMANDS[name]


def test_the_collector_is_afterwards_as_it_was() -> None:
    before = gc.get_threshold()
    with pytest.raises(KeyboardInterrupt), collecting_rarely():
        assert gc.get_threshold()[0] > before[0]
        raise KeyboardInterrupt
    assert gc.get_threshold() == before


def test_help_lists_commands_and_exit_codes() -> None:
    text = nnjit("--help").stdout
    assert all(f"\n  {name:<9}  {line}\n" in text for name, line in COMMANDS.items())
    assert [line.split()[0] for line in text.partition("Exit codes:\n")[2].splitlines()] == [
        "0", "1", "2", "3", "4", "5", "130", "143",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["fly"], f"no command 'fly'; known: {', '.join(COMMANDS)}"),
        (["train"], "Missing argument 'CONFIG'."),
        (["train", "x", "--nope"], "No such option '--nope'."),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    result = nnjit(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith(f"Error: {message}")


def test_a_fault_of_nnjit_shows_its_traceback(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("nnjit.config.load_config", fail)
    result = nnjit("summary", config)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert result.stderr.endswith(
        "RuntimeError: planted\nerror: a fault of nnjit; a report of it should hold these lines and `nnjit info`\n"
    )


def redirected(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell does with a redirection; `<&-`, `>&-` and `2>&-` close standard streams."""
    words = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command(*arguments)]
    return subprocess.run(words, capture_output=True, text=True, env=environment(), check=False, timeout=120)


@pytest.mark.parametrize("arguments", [["summary", "tiny.yaml"], ["--help"], ["--version"], ["train", "--help"]])
def test_a_full_standard_output_is_the_system_that_refuses(config: str, arguments: list[str]) -> None:
    done = redirected("> /dev/full", *arguments)
    assert (done.returncode, done.stderr) == (1, "error: standard output: No space left on device\n")


@pytest.mark.parametrize("arguments", [["summary", "tiny.yaml"], ["--help"], ["--version"], ["train", "--help"]])
def test_who_reads_standard_output_may_have_enough(config: str, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        done = subprocess.run(
            command(*arguments), stdout=pipe, stderr=subprocess.PIPE, text=True, env=environment(), check=False
        )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["check", "nope.yaml"], ["check"], ["fly"]])
@pytest.mark.parametrize("redirection", ["2> /dev/full", "2< /dev/null", "2>&-"])
def test_an_error_that_cannot_be_printed_leaves_the_exit_code(redirection: str, arguments: list[str]) -> None:
    done = redirected(redirection, *arguments)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("arguments", [["check", "tiny.yaml"], ["summary", "tiny.yaml"], ["info"], ["--version"]])
def test_a_closed_standard_output_takes_everything(config: str, arguments: list[str]) -> None:
    done = redirected(">&-", *arguments)
    assert (done.returncode, done.stderr) == (0, "")


def test_predictions_without_standard_streams(config: str) -> None:
    nnjit("train", config, "--out", "run", "--quiet")
    np.save("inputs.npy", np.zeros((2, 64), np.float32))
    done = redirected(">&-", "predict", "run", "inputs.npy")
    assert (done.returncode, without_compiling(done.stderr)) == (0, "")
    done = redirected("<&-", "predict", "run")
    assert (done.returncode, done.stderr) == (3, "error: standard input: expected a table, got an empty file\n")


def test_a_closed_standard_input_is_empty(config: str) -> None:
    done = redirected("<&-", "check", "-")
    empty = process("check", "-", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", empty.stderr)
    assert done.stderr.startswith("error: ")


def test_files_do_not_take_the_numbers_of_closed_streams() -> None:
    code = "import os, sys\nfrom nnjit.cli import main\nmain(['schema'], standalone_mode=False)\n"
    code += "print(os.open(os.devnull, os.O_RDONLY) > 2, sys.stdout.fileno(), file=sys.stderr)"
    words = ["sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=True, timeout=60)
    assert done.stderr == "True 1\n"


@pytest.mark.parametrize(
    "model",
    [
        "[dense: 1000000000000000, dense: 10]",
        "[dense: 10000000000000000000000, dense: 10]",
        "[conv2d: {filters: 1, kernel: 3, padding: 1000000000}, flatten, dense: 10]",
        "[conv2d: {filters: 1, kernel: 1000000000, padding: same}, flatten, dense: 10]",
    ],
)
def test_a_network_larger_than_memory(config: str, model: str) -> None:
    shape = "[64]" if model.startswith("[dense") else "[1, 8, 8]"
    result = nnjit("train", config, "--set", f"data.shape={shape}", "--set", f"model={model}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: not enough memory (Unable to allocate ")
    assert result.stderr.count("\n") == 1
    assert not Path("runs/tiny").exists()


def test_python_dash_m() -> None:
    done = process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"nnjit {package.__version__}\n", "")


def test_check_prints_what_it_found(config: str) -> None:
    result = nnjit("check", config)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "input       shape (64,), float32 in the file\n"
        "classes     10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n"
        "train       64 samples, 4 to 9 of each class\n"
        "validation  32 samples, 0 to 8 of each class\n"
        "test        32 samples, 1 to 5 of each class\n"
        "epoch       4 steps of 20 samples\n"
    )


@pytest.mark.parametrize("shape", ["[8, 8]", "[2, 4, 2, 4]"])
@pytest.mark.parametrize(
    "words",
    [["check"], ["summary"], ["train"], ["doctor"], ["bench"], ["gradcheck", "--fast"], ["explain"]],
    ids=" ".join,
)
def test_inputs_of_any_rank_can_be_flattened(config: str, words: list[str], shape: str) -> None:
    settings = [f"data.shape={shape}", "model=[flatten, dense: 10]", "train.epochs=1"]
    result = nnjit(*words, config, *(word for setting in settings for word in ("--set", setting)))
    # The doctor finds fault with so few samples.
    assert result.exit_code in ({0, 5} if words == ["doctor"] else {0})
    assert result.stdout


def test_check_of_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,b,y\n1,2,3\n4,5,6\n")
    text = "{data: {train: {file: t.csv}}, model: [dense: 1], loss: half_squared_error, optimizer: {sgd: 1}"
    result = nnjit("check", "-", "--set", "train.batch_size=2", stdin=text + "}")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "input       shape (2,), float32 in the file\n"
        "target      shape (1,)\n"
        "train       2 samples\n"
        "validation  none\n"
        "test        none\n"
        "epoch       1 steps of 2 samples\n"
    )


def test_summary(config: str) -> None:
    layers = "[conv2d: {filters: 4, kernel: 3, stride: 2}, relu, average_pool: 2, flatten, dense: 10, softmax]"
    result = nnjit("summary", config, "--set", "data.shape=[1, 8, 8]", "--set", f"model={layers}")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "   layer         output  parameters  multiply-adds  receptive field\n"
        "   input         1x8x8\n"
        "0  conv2d        4x3x3           40            324  3x3\n"
        "1  relu          4x3x3            0              0  3x3\n"
        "2  average_pool  4x1x1            0              0  5x5\n"
        "3  flatten       4                0              0  5x5\n"
        "4  dense         10              50             40  all\n"
        "5  softmax       10               0              0  all\n"
        "   total                         90            364\n"
        "\n"
        "memory for parameters, gradients and velocity: 1.08 kB\n"
        "memory for activations and their gradients, batches of 20: 14.7 kB\n"
    )


def test_summary_reads_no_more_than_the_head_of_the_data(tmp_path: Path) -> None:
    head = tmp_path / "train.csv"
    head.write_text("1,2,3,0\n1,2\nrubbish")
    (tmp_path / "tiny.yaml").write_text(TINY.replace(f"{DIGITS}/train.csv, target: digit", str(head)))
    result = nnjit("summary", tmp_path / "tiny.yaml")
    assert result.stdout.splitlines()[1].split() == ["input", "3"]


def compile_for(seconds: float, name: str, inside: str = "") -> None:
    """What Numba tells its listeners when a kernel is compiled, and with it one that it calls."""
    with event.trigger_event("numba:compile", {"dispatcher": SimpleNamespace(py_func=SimpleNamespace(__name__=name))}):
        if inside:
            compile_for(0, inside)
        time.sleep(seconds)


def seconds_told(text: str) -> float:
    return float(text.splitlines()[-1].removeprefix("compiled in ").partition(" s: ")[0])


def test_kernels_that_are_compiled_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    with compiling() as kernels:
        compile_for(0.1, "_serve", inside="_take_tasks")
        time.sleep(0.5)
        compile_for(0.1, "dense")
    first, last = capsys.readouterr().err.splitlines()
    assert kernels == {"serve": 1, "dense": 1}
    assert first.startswith("compiling kernels, ")
    assert last.endswith(" s: dense, serve")
    assert 0.2 <= seconds_told(last) < 0.65


def test_a_thread_that_still_compiles_counts_until_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    thread = threading.Thread(target=compile_for, args=(0.6, "_serve"))
    with compiling():
        thread.start()
        time.sleep(0.2)
    told = capsys.readouterr().err
    with compiling(quiet=True) as kernels:
        thread.join()
    assert 0.1 <= seconds_told(told) < 5
    assert not kernels


def test_what_was_begun_before_is_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    thread = threading.Thread(target=compile_for, args=(0.3, "_serve"))
    thread.start()
    time.sleep(0.1)
    with compiling():
        thread.join()
        compile_for(0.1, "dense")
    told = capsys.readouterr().err
    assert told.endswith(" s: dense\n")
    assert 0.1 <= seconds_told(told) < 5


@pytest.mark.parametrize("count, words", [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_345_678, "12.3 MB")])
def test_bytes_in_words(count: int, words: str) -> None:
    assert in_bytes(count) == words


def test_info_as_lines_and_as_json() -> None:
    lines, facts = nnjit("info"), json.loads(nnjit("info", "--json").stdout)
    assert lines.exit_code == 0
    assert [line[:18].strip().replace(" ", "_") for line in lines.stdout.splitlines()] == [*facts]
    assert facts["nnjit"] == package.__version__
    assert facts["lanes"] == {"float32": 16, "float64": 8}
    assert facts["threads"] <= facts["cores"]
    assert facts["threading_layer"] == "nnjit's own (no OpenMP or TBB needed)"
    assert Path(facts["cache"]).is_dir()


@pytest.mark.parametrize("given", ["0", "-1", "two"])
def test_a_wrong_number_of_threads_in_the_environment(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", given)
    result = nnjit("info")
    message = f"error: NUMBA_NUM_THREADS: expected a whole number of at least 1, got '{given}'\n"
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", message)


def test_schema_is_json() -> None:
    result = nnjit("schema")
    assert result.exit_code == 0
    assert set(json.loads(result.stdout)["properties"]) == {"data", "model", "loss", "optimizer", "train", "seed"}


def test_warmup_of_a_config(config: str) -> None:
    nnjit("warmup", config)
    again = nnjit("warmup", config)
    assert (again.exit_code, again.stderr) == (0, "")
    assert again.stdout.startswith("tiny.yaml: compiled 0, ")


def test_the_networks_of_warmup_hold_every_layer_and_loss() -> None:
    configs = [config for _, config, _ in examples()]
    assert {layer.kind() for config in configs for layer in config.model} == set(Layer.kinds())
    assert {config.loss.kind() for config in configs} == set(Loss.kinds())
