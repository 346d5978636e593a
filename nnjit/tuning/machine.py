"""What the choices know about the machine."""

from __future__ import annotations

from functools import cache

from numba.core.registry import cpu_target

from nnjit.kernels.threads import get_threads

__all__ = ["TASK_BYTES", "get_threads", "register_pieces", "vector_registers", "wanted_tasks"]

TASK_BYTES = 1_200_000
"""What a task reads again and again at most: with what it writes it fits a second cache of 2 MiB."""


@cache
def vector_registers() -> int:
    """How many 64-byte vectors the CPU's registers hold: 32 with AVX-512, 8 with AVX or NEON, else 4."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()[:3]
    enabled = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    if "avx512f" in enabled:
        return 32
    return 8 if enabled & {"avx", "avx2", "neon"} else 4


def register_pieces() -> int:
    """How many registers a 64-byte vector takes: 1 with AVX-512, 2 with AVX, 4 with SSE (and NEON, whose 32 registers
    count as AVX's 16 here)."""
    return {32: 1, 8: 2, 4: 4}[vector_registers()]


def wanted_tasks() -> int:
    """Tasks that a call has, if there is so much to share: four for a thread, so that none waits long for the last."""
    return 4 * get_threads()
