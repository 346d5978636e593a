"""What the choices know about the machine."""

from __future__ import annotations

from functools import cache

from numba.core.registry import cpu_target

from nnjit.kernels.threads import get_threads

__all__ = [
    "follows_few_streams",
    "get_threads",
    "loads",
    "of_amd",
    "register_pieces",
    "task_bytes",
    "vector_registers",
    "wanted_tasks",
]

TASK_BYTES, TASK_BYTES_OF_AMD, TASK_BYTES_OF_ZEN_3 = 1_200_000, 500_000, 150_000
"""What `task_bytes` is for second caches of 2 MiB, for AMD's of 1 MiB and for those of 512 KiB, which its processors
without AVX-512 have."""


@cache
def _features() -> set[str]:
    """Of the CPU that kernels are compiled for, in LLVM's terms."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()[:3]
    return {feature[1:] for feature in features.split(",") if feature.startswith("+")}


def vector_registers() -> int:
    """How many 64-byte vectors the CPU's registers hold: 32 with AVX-512, 8 with AVX or NEON, else 4."""
    if "avx512f" in _features():
        return 32
    return 8 if _features() & {"avx", "avx2", "neon"} else 4


def loads() -> float:
    """Loads a cycle that the tiles of passes through an image or a dense layer can count on: of vectors, of scalars for
    all lanes, and what is fetched ahead.

    Ice Lake does no more than 1.1 with AVX-512, with all data in the first cache: 8x2 at 85 % of the peak, 11x2 and
    12x2 at 94, 16x1 at 53, tiles of three columns and more at 97 to 100. 5x5 with a stride of 2 from 16 maps to 32 runs
    at 78 % there with 11x2, at 88 with 8x3. The processors after it do more, which can be told by their half-precision
    arithmetic: gradients to the input of 6 maps by 5x5 172 to 160 us, by 1x1 from 64 filters to 32 maps 398 to 368. So
    do AMD's, by SSE4a: with Zen 5 the former at 81 and 88 % of the peak, 3x3 with a stride of 2 from 32 maps to 64 at
    94 and 97; single layers otherwise alike.
    """
    if vector_registers() < 32:
        return 2.0
    return 1.8 if "avx512fp16" in _features() or of_amd() else 1.1


def of_amd() -> bool:
    """Whether it is one of AMD's, by SSE4a, which Intel's never had. All that depends on it was measured with Zen 5,
    and with Zen 3 what it says of it."""
    return "sse4a" in _features()


def follows_few_streams() -> bool:
    """Whether the processor itself fetches ahead in few streams of memory at a time, so that tiles had better fetch the
    next line of all maps: AMD's without AVX-512, of which a Zen 3 was measured."""
    return of_amd() and vector_registers() < 32


def register_pieces() -> int:
    """How many registers a 64-byte vector takes: 1 with AVX-512, 2 with AVX, 4 with SSE (and NEON, whose 32 registers
    count as AVX's 16 here)."""
    return {32: 1, 8: 2, 4: 4}[vector_registers()]


def task_bytes() -> int:
    """What a task reads again and again at most: with what it writes it fits the second cache.

    Measured on one core with Zen 5, as a share of the peak, by Winograd's algorithm forwards, with 1,200,000 and with
    500,000 (to the input the gains are as large): 3x3 from 32 maps of 32x32 to 32 182 to 228 %, from 48 of 20x20 to 48
    185 to 208, from 64 of 16x16 to 64 237 to 260; by 4x4 from 32 of 16x16 198 to 214; 3x3 from 256 of 8x8 to 256 281
    and 278. With Zen 3, over 21 layers forwards 1.05 and to the input 1.11 times as fast with 150,000 as with 500,000
    (3x3 from 96 maps of 14x14 to 96 10.1 to 7.3 ms, from 64 of 16x16 to 64 7.3 to 6.5), with 100,000 0.98 and 1.01
    times as fast as with 150,000; over 17 of them with 250,000 1.03 and 1.04 times as with 500,000, with 150,000 1.08.
    """
    if not of_amd():
        return TASK_BYTES
    return TASK_BYTES_OF_ZEN_3 if follows_few_streams() else TASK_BYTES_OF_AMD


def wanted_tasks() -> int:
    """Tasks that a call has, if there is so much to share: four for a thread, so that none waits long for the last."""
    return 4 * get_threads()
