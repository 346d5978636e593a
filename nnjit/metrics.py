"""What is reported beside the loss: the share of right answers for class labels, the root mean squared error for
numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nnjit.kernels.program import Call
    from nnjit.losses import LossSite


class Metric(Protocol):
    """A mean over samples of a score that a kernel writes to (blocks, L)."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def call(self, site: LossSite) -> Call:
        """The call that writes each sample's score to `site.scores`."""

    def value(self, mean_score: float) -> float:
        """What is reported."""


@dataclass(frozen=True)
class Accuracy:
    """Share of samples, 0 to 1, whose largest output is their class's; with one output, that lie on the right side of
    `threshold`."""

    threshold: float
    name: str = "accuracy"

    def call(self, site: LossSite) -> Call:
        from nnjit.kernels.losses import count_hits
        from nnjit.kernels.program import Call

        extent = site.out.extent
        arguments = (extent, site.out.view, site.target.view, site.scores, site.count, self.threshold)
        return Call(count_hits, extent.blocks, arguments, 4 * site.scores.size * extent.rows)

    def value(self, mean_score: float) -> float:
        return mean_score


@dataclass(frozen=True)
class RootMeanSquaredError:
    """sqrt(mean over samples and outputs of (out - target)**2), in the units of the (scaled) targets."""

    name: str = "rmse"

    def call(self, site: LossSite) -> Call:
        from nnjit.kernels.losses import mean_squares
        from nnjit.kernels.program import Call

        extent = site.out.extent
        arguments = (extent, site.out.view, site.target.view, site.scores, site.count)
        work = site.scores.size * extent.rows * extent.lines * extent.columns
        return Call(mean_squares, extent.blocks, arguments, work)

    def value(self, mean_score: float) -> float:
        return math.sqrt(mean_score) if mean_score >= 0 else math.nan
