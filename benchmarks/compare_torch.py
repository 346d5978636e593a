"""nnjit against PyTorch: the same networks from the same parameters on the same batches, with the same threads.

First both train for 20 steps, and the losses must agree step by step; then they are timed in turns in one process.
PyTorch counts with the best of its modes. scikit-learn's MLPClassifier stands beside them where the network is dense.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import torch
from memory import TRAINERS, peak_memory_of
from quiet import wait_until_quiet
from results import PagePath, machine, page, write_page
from sklearn_peer import DIFFERENCES, sklearn_epoch
from threadpoolctl import threadpool_limits
from torch_peer import MODES, TorchInference, TorchTraining, modes_for
from workloads import INFERENCE, INFERENCE_BATCH, chosen, workload

from nnjit.bench.limits import machine_limits
from nnjit.bench.profile import Profile, profile
from nnjit.bench.timing import race
from nnjit.bench.workload import BATCHES, Workload, bind_workload, measured_data
from nnjit.cli.options import Count, Seconds
from nnjit.errors import CheckFailedError
from nnjit.kernels.simd import lanes
from nnjit.kernels.threads import get_threads, most_threads, set_threads
from nnjit.network import Network
from nnjit.steps import Prediction, Scaling
from nnjit.trainer import build_network

NNJIT = "nnjit"
SKLEARN = "scikit-learn"
EAGER = MODES[0]
"""What PyTorch's compiler compiles from."""

AGREEMENT = 1e-4
"""Largest relative difference of two losses, or of two outputs by the largest of them."""
AGREEMENT_STEPS = 20

MEMORY_WORKLOAD = "vgg-small"
LIMITS_SECONDS = 4.0


@dataclass
class Comparison:
    """One workload's result."""

    name: str
    batch_size: int
    seconds: dict[str, float]
    """The median time of a step, or of a batch of predictions, by contender."""
    difference: float
    """The largest relative difference of a loss or an output from nnjit's."""
    notes: list[str] = field(default_factory=list)
    profile: Profile | None = None
    """nnjit's step, layer by layer."""

    @property
    def best_peer(self) -> str:
        """PyTorch's fastest mode."""
        return min((name for name in self.seconds if name not in (NNJIT, SKLEARN)), key=self.seconds.__getitem__)

    @property
    def ratio(self) -> float:
        """How many times as many samples nnjit does in a second as PyTorch's best mode."""
        return self.seconds[self.best_peer] / self.seconds[NNJIT]

    def rate(self, contender: str) -> float:
        """Samples per second."""
        return self.batch_size / self.seconds[contender]


def losses_of(run: Callable[[int], float]) -> np.ndarray:
    """The losses (AGREEMENT_STEPS,) of the first steps."""
    return np.array([run(number) for number in range(AGREEMENT_STEPS)])


def loss_differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Step by step, relative to theirs."""
    return np.abs(ours - theirs) / np.abs(theirs)


def output_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest of a batch, relative to the largest output."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def compiler_disagrees(error: CheckFailedError, from_eager: float) -> str:
    """The note on torch.compile's results that are not nnjit's: how far they are from those of PyTorch without it."""
    verdict = ", which counts as agreement" if from_eager <= AGREEMENT else " too"
    apart = f"torch.compile differs from PyTorch's eager mode by {from_eager:.0e}{verdict}"
    return f"torch.compile does not count: {error}; {apart}"


def check_agreement(name: str, mode: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest relative difference of losses, step by step. Raises CheckFailedError."""
    differences = loss_differences(ours, theirs)
    # A NaN, which differs from everything, must not pass.
    wrong = np.flatnonzero(~(differences <= AGREEMENT))
    if len(wrong):
        step = wrong[0]
        raise CheckFailedError(
            f"{name}: step {step + 1}: expected losses that agree to {AGREEMENT:g}, got {ours[step]:.8g} from nnjit "
            f"and {theirs[step]:.8g} from PyTorch ({mode})"
        )
    return float(differences.max())


def check_outputs(name: str, mode: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of outputs. Raises CheckFailedError."""
    found = output_difference(ours, theirs)
    if not found <= AGREEMENT:
        raise CheckFailedError(f"{name}: expected outputs that agree to {AGREEMENT:g}, got {found:g} ({mode})")
    return found


def torch_trainings(subject: Workload, modes: Sequence[str], notes: list[str]) -> dict[str, TorchTraining]:
    """PyTorch's training in each of the modes that work here; a note for each that does not."""
    found = {}
    for mode in modes:
        try:
            training = TorchTraining(subject.config, subject.dataset, subject.network, mode)
            training.run(0)
            training.reset()
        except Exception as error:
            if mode != "torch.compile":
                raise
            notes.append(f"torch.compile does not work here: {_first_line(error)}")
            continue
        found[mode] = training
    return found


def compare_training(name: str, rounds: int, seconds: float, modes: Sequence[str], threads: int) -> Comparison:
    """A workload's training: agreement, then times. Raises CheckFailedError."""
    loaded = workload(name)
    subject = bind_workload(loaded.config, measured_data(loaded))
    notes: list[str] = []
    wanted = [mode for mode in modes_for(subject.network) if mode in modes]
    peers = torch_trainings(subject, wanted, notes)
    ours = losses_of(subject.run)
    theirs: dict[str, np.ndarray] = {}
    difference = 0.0
    for mode, peer in list(peers.items()):
        theirs[mode] = losses_of(peer.run)
        try:
            difference = max(difference, check_agreement(name, mode, ours, theirs[mode]))
        except CheckFailedError as error:
            # PyTorch's own modes must agree among themselves first; its compiler's has failed to (nielsen-cnn, 2.13).
            if mode != "torch.compile":
                raise
            from_eager = float(loss_differences(theirs[mode], theirs[EAGER]).max())
            notes.append(compiler_disagrees(error, from_eager))
            del peers[mode]
    subject.reset()
    for peer in peers.values():
        peer.reset()
    turns = race({NNJIT: subject.run, **{mode: peer.run for mode, peer in peers.items()}}, rounds, seconds)
    medians = {contender: statistics.median(times) for contender, times in turns.items()}
    epoch = sklearn_epoch(subject.config, subject.dataset)
    if epoch is not None:
        with threadpool_limits(threads):
            turns = race({SKLEARN: epoch.run}, rounds, seconds)
        medians[SKLEARN] = statistics.median(turns[SKLEARN]) / BATCHES
        notes.append(f"scikit-learn: {DIFFERENCES}")
    batch, held = subject.config.train.batch_size, subject.step.bound.blocks * lanes(subject.network.dtype)
    if batch < held:
        # The roofline of a short batch: nnjit computes whole vectors of samples.
        notes.append(
            f"{name}: {batch} of {held} lanes hold samples, so {batch / held:.0%} of nnjit's arithmetic is for them"
        )
    parts = profile(subject, rounds * seconds)
    return Comparison(name, subject.config.train.batch_size, medians, difference, notes, parts)


class NnjitInference:
    """Predictions as `nnjit predict` makes them: batches go in and outputs come out as ordinary arrays."""

    def __init__(self, network: Network, blocks: np.ndarray) -> None:
        """`blocks` (blocks, N, *shape): the batches that `run` goes round in."""
        plain = Scaling(np.zeros(1), np.ones(1))
        self.blocks = blocks
        self.prediction = Prediction(network, blocks.dtype, plain, blocks.shape[1])

    def run(self, number: int) -> np.ndarray:
        """The outputs for batch `number` of an endless round."""
        return self.prediction.run(self.blocks[number % len(self.blocks)])


def compare_inference(name: str, rounds: int, seconds: float, modes: Sequence[str]) -> Comparison:
    """A workload's predictions: agreement, then times. Raises CheckFailedError."""
    config = workload(name).config
    assert config.data.shape is not None
    network = build_network(config, config.data.shape)
    rng = np.random.default_rng(0)
    blocks = rng.random((4, INFERENCE_BATCH, *config.data.shape), np.float32)
    ours = NnjitInference(network, blocks)
    outputs = ours.run(0)
    contenders: dict[str, Callable[[int], object]] = {NNJIT: ours.run}
    notes: list[str] = []
    theirs: dict[str, np.ndarray] = {}
    difference = 0.0
    for mode in modes_for(network):
        if mode not in modes:
            continue
        peer = TorchInference(network, mode, blocks)
        try:
            theirs[mode] = peer.run(0)
        except Exception as error:
            if mode != "torch.compile":
                raise
            notes.append(f"torch.compile does not work here: {_first_line(error)}")
            continue
        try:
            difference = max(difference, check_outputs(name, mode, outputs, theirs[mode]))
        except CheckFailedError as error:
            if mode != "torch.compile":
                raise
            notes.append(compiler_disagrees(error, output_difference(theirs[mode], theirs[EAGER])))
            continue
        contenders[mode] = peer.run
    medians = {contender: statistics.median(times) for contender, times in race(contenders, rounds, seconds).items()}
    return Comparison(f"{name}, inference", INFERENCE_BATCH, medians, difference, notes)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def show(comparison: Comparison) -> None:
    """Print one comparison."""
    click.echo(f"{comparison.name}, batch {comparison.batch_size}: {comparison.ratio:.2f} times PyTorch")
    for contender, seconds in comparison.seconds.items():
        best = "  best" if contender == comparison.best_peer else ""
        click.echo(f"  {contender:<14}{seconds * 1e6:>11,.0f} us{comparison.rate(contender):>12,.0f} samples/s{best}")
    click.echo(f"  largest relative difference {comparison.difference:.1e}")
    for note in comparison.notes:
        click.echo(f"  {note}")


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--threads", type=Count(1, most_threads()), help="Of either; all cores unless given.")
@click.option("--rounds", type=Count(1), default=7, show_default=True, help="Turns of each contender.")
@click.option("--seconds", type=Seconds(), default=0.5, show_default=True, help="Of a turn.")
@click.option("--no-compile", is_flag=True, help="Leave out torch.compile, which takes a minute for each network.")
@click.option("--no-inference", is_flag=True, help="Time training alone.")
@click.option("--write", type=PagePath(), metavar="FILE", help="Write a page of results; takes memory too.")
def main(
    names: tuple[str, ...],
    threads: int | None,
    rounds: int,
    seconds: float,
    no_compile: bool,
    no_inference: bool,
    write: Path | None,
) -> None:
    """Compare nnjit with PyTorch on the workloads NAME..., all of them by default."""
    wanted = chosen(names)
    threads = threads or get_threads()
    set_threads(threads)
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # torch.compile's
    wait_until_quiet()
    facts = machine()
    modes = tuple(mode for mode in MODES if not (no_compile and mode == "torch.compile"))
    comparisons = []
    try:
        for name in wanted:
            comparisons.append(compare_training(name, rounds, seconds, modes, threads))
            show(comparisons[-1])
        for name in wanted:
            if name in INFERENCE and not no_inference:
                comparisons.append(compare_inference(name, rounds, seconds, modes))
                show(comparisons[-1])
    except CheckFailedError as error:
        raise click.ClickException(str(error)) from None
    if write is not None:
        flags = [word for word, given in (("--no-compile", no_compile), ("--no-inference", no_inference)) if given]
        options = [f"--threads {threads}", f"--rounds {rounds}", f"--seconds {seconds:g}", *flags, "--write FILE"]
        repeat = " ".join(["python benchmarks/compare_torch.py", *names, *options])
        memory = {trainer: peak_memory_of(trainer, MEMORY_WORKLOAD, threads) for trainer in TRAINERS}
        write_page(write, page(facts, threads, repeat, machine_limits(LIMITS_SECONDS), comparisons, memory))


if __name__ == "__main__":
    main()
