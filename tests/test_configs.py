"""The configs that are shipped: each can be measured without its data, and fits its data where they are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnjit.bench.workload import BATCHES, absent_files, measured_data
from nnjit.config import LoadedConfig, load_config, parse_config
from nnjit.errors import DataError
from nnjit.prepare import check_shapes, misfit, prepare

ROOT = Path(__file__).parents[1]
SHIPPED = sorted([*(ROOT / "configs").glob("*.yaml"), *(ROOT / "benchmarks" / "configs").rglob("*.yaml")])
NAMES = [str(path.relative_to(ROOT)) for path in SHIPPED]
MNIST = ("lenet5", "nielsen")


def images(path: Path, side: int) -> list[str]:
    """Overrides that put images of 28 x `side` in the place of MNIST's."""
    np.save(path / "inputs.npy", np.zeros((40, 28, side), np.uint8))
    np.save(path / "targets.npy", np.arange(40, dtype=np.int32) % 10)
    words = [f"data.train.{name}={path / name}.npy" for name in ("inputs", "targets")]
    return [*words, "data.test=null", "train.batch_size=10"]


def test_there_are_configs() -> None:
    assert len(SHIPPED) > 10


@pytest.mark.parametrize("name", NAMES)
def test_a_config_can_be_measured_without_its_data(name: str, tmp_path: Path) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    loaded = parse_config(text, name, tmp_path, ["train.batch_size=1"])
    source = loaded.config.data.train
    assert absent_files(loaded) == [getattr(source, field) for field in source.paths]
    dataset = measured_data(loaded)
    assert len(dataset.train) == BATCHES and dataset.shape == loaded.config.data.shape
    assert misfit(check_shapes(loaded)[-1], dataset.target_shape, dataset.classes) is None


@pytest.mark.parametrize("name", [name for name, path in zip(NAMES, SHIPPED, strict=True)
                                  if not absent_files(load_config(path))])  # fmt: skip
def test_data_that_are_shipped_fit_their_config(name: str) -> None:
    loaded = load_config(ROOT / name)
    assert prepare(loaded).shape == loaded.config.data.shape


def mnist(name: str, overrides: list[str]) -> LoadedConfig:
    return load_config(ROOT / "configs" / f"{name}.yaml", overrides)


@pytest.mark.parametrize("name", MNIST)
def test_images_of_mnists_size_fit_its_configs(name: str, tmp_path: Path) -> None:
    dataset = prepare(mnist(name, images(tmp_path, 28)))
    assert dataset.shape == (1, 28, 28) and len(dataset.classes or []) == 10


@pytest.mark.parametrize("name", MNIST)
def test_images_of_another_size_do_not(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected inputs of shape \(1, 28, 28\), as data.shape says: 784 numbers"):
        prepare(mnist(name, images(tmp_path, 27)))
