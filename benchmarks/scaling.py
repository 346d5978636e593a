"""How the cost grows: samples per second over batch sizes, threads, image sides and depths, as a table and a plot.

Neighbouring sizes are compared by what a multiply-add costs: where the larger size pays more than 1.5 times as much,
there is a cliff.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import click
from quiet import wait_until_quiet
from results import heading, machine, markdown_table, write_page
from workloads import CONFIGS

from nnjit.bench.timing import race
from nnjit.bench.workload import bind_workload, measured_data
from nnjit.cli.options import Count, Seconds
from nnjit.config import LoadedConfig, load_config, parse_config
from nnjit.kernels.threads import get_threads, set_threads
from nnjit.prepare import check_shapes

BATCHES = (1, 2, 4, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 256, 257, 512, 1024)
SIDES = (16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 96, 127, 128)
DEPTHS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
CLIFF = 1.5
SERIES = {
    "batch": "batches of lenet5",
    "threads": "threads on vgg-small",
    "side": "sides of images under two convolutions of 16 filters, in batches of 16",
    "depth": "how many such convolutions follow each other on 32 x 32, in batches of 16",
}
"""What each varies."""

IMAGES = """
data: {{train: {{inputs: inputs.npy, targets: targets.npy}}, shape: [3, {side}, {side}], classes: 10}}
model:
{layers}
  - max_pool: 2
  - flatten
  - dense: 10
loss: softmax_cross_entropy
optimizer: {{learning_rate: 0.0001, momentum: 0.9}}
train: {{batch_size: 16}}
"""
LAYER = "  - conv2d: {filters: 16, kernel: 3, padding: same}\n  - relu"


@dataclass(frozen=True)
class Point:
    """One measured size."""

    series: str
    size: int
    batch_size: int
    step_seconds: float
    samples_per_second: float
    picoseconds_per_multiply_add: float
    """Time of the whole step by the multiply-adds of its forward pass alone; the way back has about twice as many."""


def convolutions(side: int, depth: int) -> LoadedConfig:
    """A stack of `depth` convolutions of 16 filters on images of 3 x side x side."""
    text = IMAGES.format(side=side, layers="\n".join([LAYER] * depth))
    return parse_config(text, f"{depth} convolutions on {side} x {side}", Path())


def sizes(series: str, threads: int) -> Iterator[tuple[int, int, LoadedConfig]]:
    """What a series measures: size, threads, config."""
    if series == "batch":
        for batch in BATCHES:
            yield batch, threads, load_config(CONFIGS / "lenet5.yaml", [f"train.batch_size={batch}"])
    elif series == "threads":
        for count in range(1, threads + 1):
            yield count, count, load_config(CONFIGS / "vgg-small.yaml")
    elif series == "side":
        for side in SIDES:
            yield side, threads, convolutions(side, 2)
    else:
        for depth in DEPTHS:
            yield depth, threads, convolutions(32, depth)


def measure(series: str, threads: int, rounds: int, seconds: float) -> list[Point]:
    """The points of a series, whose sizes are timed in turns."""
    workloads, loaded_of = {}, {}
    for size, count, loaded in sizes(series, threads):
        set_threads(count)
        workloads[size], loaded_of[size] = bind_workload(loaded.config, measured_data(loaded)), loaded
    turns = race({str(size): workload.run for size, workload in workloads.items()}, rounds, seconds)
    points = []
    for size, workload in workloads.items():
        taken, batch, loaded = statistics.median(turns[str(size)]), workload.step.batch_size, loaded_of[size]
        forward = zip(loaded.config.model, check_shapes(loaded), strict=False)
        work = batch * sum(layer.multiply_adds(shape) for layer, shape in forward)
        points.append(Point(series, size, batch, taken, batch / taken, 1e12 * taken / work))
    return points


def cliffs(points: Sequence[Point]) -> list[str]:
    """A line for each size at which a multiply-add costs more than CLIFF times as much as at the size before."""
    found = []
    for before, after in pairwise(points):
        rise = after.picoseconds_per_multiply_add / before.picoseconds_per_multiply_add
        if before.series == after.series and rise > CLIFF:
            found.append(f"{after.series} {before.size} to {after.size}: {rise:.2f} times the cost of a multiply-add")
    return found


def page(facts: Mapping[str, str], threads: int, repeat: str, points: Sequence[Point]) -> str:
    """The table and the cliffs. `facts` come from `machine`, taken before the first measurement."""
    lines = {**facts, "threads": f"{threads} where they are not what varies", "to repeat": f"`{repeat}`"}
    varied = "; ".join(SERIES[name] for name in dict.fromkeys(point.series for point in points))
    headings = ("series", "size", "batch", "step us", "samples/s", "ps per multiply-add")
    rows = [
        (
            point.series,
            str(point.size),
            str(point.batch_size),
            f"{point.step_seconds * 1e6:,.0f}",
            f"{point.samples_per_second:,.0f}",
            f"{point.picoseconds_per_multiply_add:.1f}",
        )
        for point in points
    ]
    found = "".join(f"- {line}\n" for line in cliffs(points)) or "None.\n"
    return "".join(
        [
            heading("Scaling", "scaling.py", lines),
            f"\nWhat varies: {varied}. A figure is the median over turns of the median training step.\n\n"
            "ps per multiply-add is the time of the whole training step, in picoseconds, divided by the multiply-adds "
            "of its forward pass alone, as the formula counts them. The way back, whose time is in it, has about twice "
            "as many.\n\n",
            markdown_table([headings, *rows]),
            f"\n## Sizes that cost more than {CLIFF} times as much as the size before\n\n{found}",
        ]
    )


def plot(points: list[Point], path: Path) -> None:
    """Draw samples per second over size, a panel for each series."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    names = list(dict.fromkeys(point.series for point in points))
    figure, panels = pyplot.subplots(1, len(names), figsize=(4 * len(names), 3.5), layout="constrained", squeeze=False)
    for name, panel in zip(names, panels[0], strict=True):
        series = [point for point in points if point.series == name]
        panel.plot([point.size for point in series], [point.samples_per_second for point in series], "o-", markersize=3)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set(xlabel=name, ylabel="samples/s")
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:,.0f}")
        panel.yaxis.set_minor_locator(ticker.NullLocator())
        panel.grid(True, alpha=0.3)
    figure.savefig(path, dpi=120)


@click.command()
@click.option("--rounds", type=Count(1), default=5, show_default=True, help="Turns of each size.")
@click.option("--seconds", type=Seconds(), default=0.2, show_default=True, help="Of a turn.")
@click.option("--series", type=click.Choice(list(SERIES)), multiple=True, help="Only these; wants --out.")
@click.option(
    "--out",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Folder; benchmarks/ unless given.",
)
def main(rounds: int, seconds: float, series: tuple[str, ...], out: Path | None) -> None:
    """Write scaling.csv, scaling.md and scaling.png; print the cliffs."""
    if series and out is None:
        raise click.UsageError("--series needs --out, since the files in benchmarks/ hold all series")
    if find_spec("matplotlib") is None:
        raise click.ClickException("scaling.png needs matplotlib; `pip install 'nnjit[plot]'` installs it")
    wait_until_quiet()
    facts, threads = machine(), get_threads()
    points: list[Point] = []
    for name in SERIES:
        if name in (series or SERIES):
            points += measure(name, threads, rounds, seconds)
            click.echo(f"{name}: done", err=True)
    options = [f"--rounds {rounds}", f"--seconds {seconds:g}", *(f"--series {name}" for name in series), "--out FOLDER"]
    repeat = " ".join(["python benchmarks/scaling.py", *options])
    folder = out or CONFIGS.parent
    with (folder / "scaling.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Point))
        writer.writerows(map(astuple, points))
    write_page(folder / "scaling.md", page(facts, threads, repeat, points))
    plot(points, folder / "scaling.png")
    for line in cliffs(points):
        click.echo(line)


if __name__ == "__main__":
    main()
