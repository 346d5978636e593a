"""The sanity battery: what is worth knowing about a config's data, network and first steps before it is trained, and
whether the CPU is fit for it.

Source of most checks: Karpathy, CS231n notes, "Neural Networks Part 3: Learning and Evaluation".
"""

from __future__ import annotations

from collections.abc import Iterator

from nnjit.config import Config
from nnjit.data.dataset import Dataset
from nnjit.doctor.compiler import examine_compiler
from nnjit.doctor.data import examine_data
from nnjit.doctor.few import learn_few
from nnjit.doctor.finding import Finding, counted
from nnjit.doctor.first_steps import examine_first_steps

__all__ = ["Finding", "counted", "examine"]


def examine(config: Config, dataset: Dataset) -> Iterator[Finding]:
    """The findings about a config and the data that `prepare` made of it, each as soon as it is known."""
    yield from examine_compiler()
    yield from examine_data(config, dataset)
    yield from examine_first_steps(config, dataset)
    yield learn_few(config, dataset)
