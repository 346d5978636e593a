"""How long `nnjit train` takes from the command to its first step, with an empty kernel cache and with a warm one."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from quiet import wait_until_quiet

from nnjit.bench.workload import absent_files
from nnjit.config import LoadedConfig, load_config
from nnjit.errors import NnjitError

CONFIG = Path(__file__).parents[1] / "configs" / "lenet5.yaml"
SAMPLES = 60_000
"""Of made-up images, as many as MNIST has."""
WARM_RUNS = 3


@dataclass(frozen=True)
class Start:
    """Seconds from the command on."""

    first_step: float
    """To the start of the first epoch, at which the run writes its first checkpoint."""
    end: float
    """To the end of the command, after one epoch."""


def overrides(loaded: LoadedConfig, folder: Path) -> list[str]:
    """One epoch of a config; on images made up in `folder` where its data are absent."""
    words = ["--set", "train.epochs=1"]
    if absent_files(loaded):
        rng = np.random.default_rng(0)
        arrays = {
            "inputs": rng.integers(0, 256, (SAMPLES, 28, 28), np.uint8),
            "targets": rng.integers(0, 10, SAMPLES, np.int32),
        }
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
            words += ["--set", f"data.train.{name}={folder / name}.npy"]
        words += ["--set", "data.test=null"]
    return words


def start(config: Path, words: list[str], run: Path, cache: Path) -> Start:
    """Train one epoch into the folder `run` with kernels in `cache`."""
    command = [sys.executable, "-m", "nnjit", "train", str(config), "--out", str(run), "--quiet", *words]
    checkpoint = run / "last.safetensors"
    begun = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "NUMBA_CACHE_DIR": str(cache)}, stdout=subprocess.DEVNULL)
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.001)
    first_step = time.perf_counter() - begun
    if process.wait() != 0:
        raise click.ClickException(f"`{' '.join(command)}` ended with exit code {process.returncode}")
    return Start(first_step, time.perf_counter() - begun)


@click.command()
@click.argument("config", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=CONFIG)
def main(config: Path) -> None:
    """Time the start of CONFIG, configs/lenet5.yaml unless given; on random images where MNIST is absent."""
    try:
        loaded = load_config(config)
    except NnjitError as error:
        raise click.ClickException(str(error)) from None
    wait_until_quiet()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words, cache = overrides(loaded, folder), folder / "cache"
        cold = start(config, words, folder / "cold", cache)
        warm = [start(config, words, folder / f"warm-{number}", cache) for number in range(WARM_RUNS)]
    click.echo(f"empty cache: first epoch starts after {cold.first_step:.2f} s, ends after {cold.end:.2f} s")
    first_step = statistics.median(each.first_step for each in warm)
    end = statistics.median(each.end for each in warm)
    click.echo(f"warm cache:  first epoch starts after {first_step:.2f} s, ends after {end:.2f} s")


if __name__ == "__main__":
    main()
