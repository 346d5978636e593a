"""All that `nnjit bench` says of a config."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numba.core.event import install_recorder

from nnjit.bench.limits import peak_gflops
from nnjit.bench.memory import peak_memory_bytes
from nnjit.bench.profile import PASSES, LayerTimes, Profile, profile
from nnjit.bench.workload import absent_files, bind_workload, measured_data
from nnjit.config import LoadedConfig
from nnjit.kernels.threads import get_threads


@dataclass(frozen=True)
class Report:
    """One config's measurements."""

    absent: str | None
    """The data file that is not there, for which random numbers stand in."""
    batch_size: int
    precision: str
    threads: int
    compile_seconds: float
    """What binding the step took: compiling its kernels, or loading them from the cache."""
    peak_gflops: float
    peak_memory_bytes: int
    """Of the process and its libraries; where kernels were compiled, of the compiler at work too."""
    compiled: bool
    """Whether kernels were compiled rather than all loaded from the cache."""
    buffer_bytes: int
    """Of the step: parameters, gradients, optimizer's state, activations, tables."""
    profile: Profile

    @property
    def samples_per_second(self) -> float:
        """By the median step."""
        return self.batch_size / self.profile.step_seconds

    def flat(self) -> dict[str, Any]:
        """As one JSON object."""
        profile = self.profile
        facts = {name: value for name, value in vars(self).items() if name not in ("absent", "profile")}
        return {
            "samples_per_second": self.samples_per_second,
            "step_seconds": profile.step_seconds,
            "gflops": profile.gflops,
            **facts,
            "made_up_data": self.absent is not None,
            "layers": [_flat_layer(layer) for layer in profile.layers],
            "rest": profile.rest,
        }


def _flat_layer(layer: LayerTimes) -> dict[str, Any]:
    """Every pass by name, null where the layer has none."""
    passes: dict[str, Any] = {name: asdict(layer.passes[name]) if name in layer.passes else None for name in PASSES}
    return {"position": layer.position, "kind": layer.kind, "shape": layer.shape, **passes}


def measure(loaded: LoadedConfig, seconds: float, peak_seconds: float) -> Report:
    """Measure the training step of a config for `seconds`, and the machine for `peak_seconds`.

    Raises ConfigError, DataError.
    """
    absent = absent_files(loaded)
    with install_recorder("numba:compile") as compilations:
        workload = bind_workload(loaded.config, measured_data(loaded))
        found = profile(workload, seconds)
    memory = peak_memory_bytes()  # before the machine's limits are measured, which takes memory too
    return Report(
        absent=absent[0] if absent else None,
        batch_size=workload.step.batch_size,
        precision=loaded.config.train.precision,
        threads=get_threads(),
        compile_seconds=workload.compile_seconds,
        peak_gflops=peak_gflops(np.dtype(loaded.config.train.precision), peak_seconds),
        peak_memory_bytes=memory,
        compiled=bool(compilations.buffer),
        buffer_bytes=workload.buffer_bytes,
        profile=found,
    )
