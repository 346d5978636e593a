"""Whether the CPU that kernels are compiled for has what they are made of."""

from __future__ import annotations

from collections.abc import Iterator

from llvmlite import binding
from numba.core.registry import cpu_target

from nnjit.doctor.finding import Finding

FUSED = """\
target triple = "{triple}"
declare float @llvm.fma.f32(float, float, float)
define float @multiply_add(float %a, float %b, float %c) {{
  %sum = call float @llvm.fma.f32(float %a, float %b, float %c)
  ret float %sum
}}
"""


def examine_compiler() -> Iterator[Finding]:
    """A warning if multiply-adds are no instruction; nothing otherwise."""
    _, name, features = cpu_target.target_context.codegen().magic_tuple()[:3]
    if not fuses(name, features):
        reason = f"kernels are compiled for {name} without fma: every multiply-add calls a function, for each number"
        remedy = (
            "results have the same bits, but expect 1 to 2 GFLOP/s; use a CPU with fma, and if NUMBA_CPU_NAME or "
            "NUMBA_CPU_FEATURES is set, let it say what the CPU has"
        )
        yield Finding("compiler", "warning", reason, remedy)


def fuses(name: str, features: str) -> bool:
    """Whether a fused multiply-add is an instruction of a CPU; LLVM calls a function where there is none."""
    target = binding.Target.from_default_triple()
    module = binding.parse_assembly(FUSED.format(triple=target.triple))
    assembly = target.create_target_machine(cpu=name, features=features).emit_assembly(module)
    return "fmaf" not in assembly
