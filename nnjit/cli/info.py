"""`nnjit info`."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from nnjit import __version__
from nnjit.cli.text import in_bytes

FEATURES = ("avx512f", "avx2", "avx", "fma", "sse4.2", "neon", "sve")
"""The CPU features that say how wide vectors are and whether they can be multiplied and added at once."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def info(as_json: bool) -> None:
    """Print versions, CPU, threads and the kernel cache."""
    facts = _facts()
    if as_json:
        click.echo(json.dumps(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):<{width}}  {in_bytes(value) if name == 'cache_size' else _words(value)}")


def _facts() -> dict[str, Any]:
    """What decides how nnjit computes here."""
    import numpy as np
    from numba.core.registry import cpu_target

    from nnjit.kernels.compiler import CACHE_FOLDER, CACHE_LASTS, JIT
    from nnjit.kernels.simd import lanes
    from nnjit.kernels.threads import get_threads
    from nnjit.tuning.machine import vector_registers

    _, target, features = cpu_target.target_context.codegen().magic_tuple()[:3]
    enabled = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    files = [path.stat().st_size for path in CACHE_FOLDER.rglob("*") if path.is_file()]
    return {
        "nnjit": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in ("numba", "llvmlite", "numpy")},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "compiled_for": target,
        "features": [feature for feature in FEATURES if feature in enabled],
        "lanes": {name: lanes(np.dtype(name)) for name in ("float32", "float64")},
        "vector_registers": vector_registers(),
        "cores": os.cpu_count(),
        "threads": get_threads(),
        "threading_layer": "nnjit's own (no OpenMP or TBB needed)",
        "compiler": "on" if JIT else "off, by NUMBA_DISABLE_JIT",
        "cache": str(CACHE_FOLDER),
        "cache_lasts": CACHE_LASTS,
        "cache_size": sum(files),
    }


def _cpu_name() -> str:
    """The processor's name for people, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{count} in {name}" for name, count in value.items())
    return " ".join(value) if isinstance(value, list) else str(value)
