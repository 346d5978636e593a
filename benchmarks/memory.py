"""The peak memory of training a workload, each trainer in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
from workloads import IMAGES, WORKLOADS, chosen, workload

from nnjit.bench.memory import peak_memory_bytes
from nnjit.bench.workload import bind_workload, measured_data
from nnjit.cli.options import Count
from nnjit.kernels.threads import most_threads, set_threads
from nnjit.trainer import build_network

STEPS = 10

TRAINERS = ("nnjit", "PyTorch, NCHW", "PyTorch, channels-last")


@dataclass(frozen=True)
class PeakMemory:
    """Bytes of resident memory."""

    loaded: int
    """When everything is imported and the data are made."""
    peak: int
    """After STEPS steps of training."""


def peak_memory_of(trainer: str, name: str, threads: int) -> PeakMemory:
    """The peak of one of TRAINERS on the workload `name`, measured in a new process."""
    words = [sys.executable, str(Path(__file__)), trainer, name, str(threads)]
    printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return PeakMemory(**json.loads(printed))


@click.command()
@click.argument("trainer", type=click.Choice(TRAINERS))
@click.argument("name")
@click.argument("threads", type=Count(1, most_threads()))
def main(trainer: str, name: str, threads: int) -> None:
    """Print a PeakMemory as JSON."""
    chosen([name], (*WORKLOADS, *IMAGES))
    set_threads(threads)
    loaded = workload(name)
    config, dataset = loaded.config, measured_data(loaded)
    if trainer == "nnjit":
        before = peak_memory_bytes()
        run = bind_workload(config, dataset).run
    else:
        import torch
        from torch_peer import TorchTraining

        torch.set_num_threads(threads)
        before = peak_memory_bytes()
        run = TorchTraining(
            config, dataset, build_network(config, dataset.shape), trainer.removeprefix("PyTorch, ")
        ).run
    for number in range(STEPS):
        run(number)
    print(json.dumps({"loaded": before, "peak": peak_memory_bytes()}))


if __name__ == "__main__":
    main()
