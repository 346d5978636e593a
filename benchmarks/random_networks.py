"""Random networks beside PyTorch: whether it is the workloads of `compare_torch.py` alone that are fast.

Dense networks of any widths, and networks for images; batches of one sample to a thousand.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any

import click
import torch
from compare_torch import AGREEMENT
from contest import ROUNDS, Compared, compare, ratio
from quiet import wait_until_quiet
from results import PagePath, heading, machine, markdown_table, write_page

from nnjit.cli.options import Count, Seconds
from nnjit.config import LoadedConfig, parse_config
from nnjit.config.document import to_yaml
from nnjit.errors import CheckFailedError
from nnjit.kernels.threads import get_threads, most_threads, set_threads

INPUTS, UNITS = (16, 64, 100, 256, 784, 1000, 2048), (30, 50, 128, 300, 512, 1000, 1024, 2048, 4096)
"""What is drawn from: of dense networks; common ones more often."""
CLASSES = (10, 100, 1000)
DENSE_BATCHES = (1, 4, 8, 10, 16, 20, 32, 50, 64, 100, 128, 256, 500, 1024)
CHANNELS, SIDES, MAPS = (1, 3, 3, 4, 16), (16, 20, 24, 28, 32, 40, 48, 64, 96), (8, 16, 20, 32, 48, 64)
"""Of networks for images."""
MOST_MAPS = 256
KERNELS, STRIDES = (1, 3, 3, 3, 5, 7), (1, 1, 1, 1, 2)
IMAGE_BATCHES = (1, 4, 8, 10, 16, 20, 32, 50, 64, 100, 128)
ACTIVATIONS, POOLINGS = ("relu", "relu", "relu", "tanh", "sigmoid"), ("max_pool", "max_pool", "average_pool")
MOST_DEPTH = 4
LEARNING_RATE = 1e-5
"""So small that losses do not amplify what rounding makes of them."""
WORST = 12
"""Networks that are listed for each of training and predictions."""


@dataclass(frozen=True)
class Drawn:
    """A random network and how it is trained."""

    kind: str
    shape: tuple[int, ...]
    """Of the input of one sample."""
    layers: tuple[Any, ...]
    """As a config has them."""
    batch: int
    momentum: float

    @property
    def name(self) -> str:
        """Its layers in a line."""
        return " ".join([times(self.shape), *map(_brief, self.layers)])

    @property
    def config(self) -> LoadedConfig:
        """Its config; the data are absent."""
        data = {
            "train": {"inputs": "inputs.npy", "targets": "targets.npy"},
            "shape": list(self.shape),
            "classes": self.layers[-1]["dense"],
        }
        text = to_yaml(
            {
                "data": data,
                "model": list(self.layers),
                "loss": "softmax_cross_entropy",
                "optimizer": {"learning_rate": LEARNING_RATE, "momentum": self.momentum},
                "train": {"batch_size": self.batch},
            }
        )
        return parse_config(text, self.name, Path())


def times(sizes: Sequence[int]) -> str:
    """Sizes as in 3x32x32."""
    return "x".join(map(str, sizes))


def _brief(layer: Any) -> str:
    if isinstance(layer, str):
        return layer
    ((kind, fields),) = layer.items()
    if kind != "conv2d":
        return f"{kind.removesuffix('_pool')} {fields}"
    stride = f"/{fields['stride']}" if fields["stride"] > 1 else ""
    return f"conv {fields['filters']} {times([fields['kernel']] * 2)}{stride}"


def dense_network(drawn: Random) -> Drawn:
    """A network of dense layers."""
    activation = drawn.choice(ACTIVATIONS)
    shape, layers = (drawn.choice(INPUTS),), list[Any]()
    for _ in range(drawn.randint(1, MOST_DEPTH)):
        layers += [{"dense": drawn.choice(UNITS)}, activation]
    layers.append({"dense": drawn.choice(CLASSES)})
    return Drawn("dense", shape, tuple(layers), drawn.choice(DENSE_BATCHES), drawn.choice((0.0, 0.9)))


def image_network(drawn: Random) -> Drawn:
    """A network of convolutions and pooling, one or two dense layers at the end."""
    activation, pooling = drawn.choice(ACTIVATIONS), drawn.choice(POOLINGS)
    side, maps = drawn.choice(SIDES), drawn.choice(MAPS)
    shape, layers = (drawn.choice(CHANNELS), side, side), list[Any]()
    for _ in range(drawn.randint(1, MOST_DEPTH)):
        for _ in range(drawn.randint(1, 2)):
            kernel, stride = min(drawn.choice(KERNELS), side), drawn.choice(STRIDES)
            sizes = {"filters": maps, "kernel": kernel, "stride": stride, "padding": "same"}
            layers += [{"conv2d": sizes}, activation]
            side = -(-side // stride)
        if side >= 4:
            layers.append({pooling: 2})
            side //= 2
        maps = min(maps * drawn.randint(1, 2), MOST_MAPS)
    layers.append("flatten")
    if drawn.randint(0, 1):
        layers += [{"dense": drawn.choice((64, 128, 512))}, activation]
    layers.append({"dense": drawn.choice(CLASSES[:2])})
    return Drawn("images", shape, tuple(layers), drawn.choice(IMAGE_BATCHES), drawn.choice((0.0, 0.9)))


KINDS: Mapping[str, Callable[[Random], Drawn]] = {"dense": dense_network, "images": image_network}


def networks(number: int, seed: int) -> Iterator[Drawn]:
    """So many random networks of each kind."""
    for draw in KINDS.values():
        drawn = Random(seed)
        for _ in range(number):
            yield draw(drawn)


Results = Sequence[tuple[Drawn, Compared]]


def summary(results: Results) -> str:
    """A line for training and for predictions of each kind: how the ratios are spread."""
    rows = [("networks", "what", "least", "10 %", "median", "90 %", "most", "below 1")]
    for kind in KINDS:
        for what in ("training", "prediction"):
            ratios = sorted(ratio(getattr(compared, what)) for drawn, compared in results if drawn.kind == kind)
            tenths = quantiles(ratios, n=10, method="inclusive")
            spread = (ratios[0], tenths[0], median(ratios), tenths[-1], ratios[-1])
            slower = sum(each < 1 for each in ratios)
            rows.append((kind, what, *(f"{each:.2f}" for each in spread), f"{slower} of {len(ratios)}"))
    return markdown_table(rows)


def slowest(results: Results, what: str) -> str:
    """Those with the lowest ratios in training or prediction: all that are slower than PyTorch, WORST at least."""
    rows = [("network", "batch", f"{what}, us", "PyTorch", "ratio")]
    ordered = sorted(results, key=lambda result: ratio(getattr(result[1], what)))
    below = sum(ratio(getattr(compared, what)) < 1 for _, compared in results)
    for drawn, compared in ordered[: max(WORST, below)]:
        seconds = getattr(compared, what)
        cells = (*(f"{1e6 * one:,.0f}" for one in seconds), f"{ratio(seconds):.2f}")
        rows.append((drawn.name, str(drawn.batch), *cells))
    return markdown_table(rows)


def page(facts: Mapping[str, str], threads: int, repeat: str, results: Results) -> str:
    """The whole page. `facts` come from `machine`, taken before the first measurement."""
    lines = {**facts, "threads": f"{threads}, for every contender", "to repeat": f"`{repeat}`"}
    return "".join(
        [
            heading("Random networks", "random_networks.py", lines),
            f"\n{len(results) // len(KINDS)} random networks of dense layers and as many for images, with stochastic "
            "gradient descent and cross-entropy. A ratio is PyTorch's time to nnjit's, of a step or a batch of "
            "predictions that goes in and comes out as an ordinary array, in the better of PyTorch's two orders of "
            f"memory; losses of 20 steps agree to {AGREEMENT:g}, outputs too. A time is the median over {ROUNDS} turns "
            "of the median run.\n\n",
            summary(results),
            "\nThe lowest ratios in training:\n\n",
            slowest(results, "training"),
            "\nThe lowest ratios in predictions:\n\n",
            slowest(results, "prediction"),
        ]
    )


@click.command()
@click.option("--networks", "number", type=Count(2), default=40, show_default=True, help="Of each kind.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which.")
@click.option("--threads", type=Count(1, most_threads()), help="Of either; all cores unless given.")
@click.option("--seconds", type=Seconds(), default=0.2, show_default=True, help="Of a contender.")
@click.option("--write", type=PagePath(), metavar="FILE", help="Write a page instead of printing.")
def main(number: int, seed: int, threads: int | None, seconds: float, write: Path | None) -> None:
    """Time training and predictions of random networks beside PyTorch; print how the ratios are spread."""
    threads = threads or get_threads()
    set_threads(threads)
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    wait_until_quiet()
    facts = machine()
    results: list[tuple[Drawn, Compared]] = []
    try:
        for drawn in networks(number, seed):
            results.append((drawn, compare(drawn.name, drawn.config, seconds)))
            click.echo(f"{len(results)} of {number * len(KINDS)}: done", err=True)
    except CheckFailedError as error:
        raise click.ClickException(str(error)) from None
    if write is None:
        texts = (summary(results), slowest(results, "training"), slowest(results, "prediction"))
        click.echo("\n".join(texts), nl=False)
        return
    options = f"--networks {number} --seed {seed} --threads {threads} --seconds {seconds:g} --write FILE"
    write_page(write, page(facts, threads, f"python benchmarks/random_networks.py {options}", results))


if __name__ == "__main__":
    main()
