"""How kernels are compiled: the decorators and the cache folder.

Numba's cache notices a change in a kernel's own file, not in functions it calls from other files. So nnjit gives Numba
a folder whose name holds a digest of every kernel source and of the compiler's versions: a stale kernel is never
loaded.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import njit
from numba.core.caching import FunctionCache
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.registry import CPUDispatcher
from numba.core.runtime.nrt import rtsys
from numba.extending import register_jitable

settings: Any = numba.config
JIT = not settings.DISABLE_JIT
"""Whether kernels are compiled; with NUMBA_DISABLE_JIT=1 they run as Python."""


class KernelCache(FunctionCache):
    """Numba's cache on disk, from which machine code is loaded alone.

    Numba fills in first what its compiler needs to know (arrays, sets, linear algebra with SciPy's if that is there),
    which the compiler asks for by itself when it runs: 0.3 s of a start at which all kernels are in the cache.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compilation for a signature, None if there is none."""
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


SKIPPED_STEPS = {
    "WithLifting",
    "InlineClosureLikes",
    "RewriteDynamicRaises",
    "MakeFunctionToJitFunction",
    "InlineInlinables",
    "FindLiterallyCalls",
    "LiteralUnroll",
    "LiteralPropagationSubPipelinePass",
    "NopythonRewrites",
    "NoPythonSupportedFeatureValidation",
    "AnnotateTypes",
    "DumpParforDiagnostics",
}
"""Steps of Numba's compiler for what kernels do not hold: `with`, closures, exceptions, sums of whole arrays, loops
over tuples of several types, parallel loops, notes on types for who reads them."""


class KernelCompiler(CompilerBase):
    """Numba's compiler without the steps that no kernel has a use for."""

    def define_pipelines(self) -> list[Any]:
        """The steps for the function at hand, in one pipeline."""
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state, "kernel")
        pipeline.passes = [entry for entry in pipeline.passes if entry[0].__name__ not in SKIPPED_STEPS]
        pipeline.finalize()
        return [pipeline]


_LEAN: Any = {"no_cfunc_wrapper": True, "pipeline_class": KernelCompiler}
"""What a subroutine does not take over from the kernel that calls it."""
_OPTIONS: Any = {"error_model": "numpy", "_nrt": False, **_LEAN}
"""No fastmath (results must not depend on the CPU), no exceptions, and no memory but what the arguments hold. So nobody
counts who holds an array, for which Numba would add code wherever one is passed on, and remove it again. That, the
skipped steps and entry points for C and, to kernels, for Python made the kernels of a small network of convolutions
take 44 s of the processor's time to compile, not 32."""
_KERNEL_OPTIONS: Any = {"no_cpython_wrapper": True, **_OPTIONS}


class Kernel(CPUDispatcher):
    """A compiled kernel, which programs run and Python cannot call."""

    def __call__(self, *arguments: Any) -> None:
        """Raises TypeError, where there is no entry point."""
        raise TypeError(f"{self.py_func.__name__}: a compiled kernel runs in a Program")


def subroutine(function: Any = None, **options: Any) -> Any:
    """Have a function, which Python runs as it is, compiled into the kernels that call it."""
    if function is None:
        return partial(subroutine, **options)
    return register_jitable(**_LEAN, **options)(function)


def kernel(function: Any) -> Any:
    """Compile a kernel, which a Program runs."""
    dispatcher = njit(**_KERNEL_OPTIONS)(function)
    if JIT:
        dispatcher.__class__ = Kernel
    return _cached(dispatcher)


def driver(function: Any) -> Any:
    """Compile what Python calls, without holding the interpreter's lock."""
    return _cached(njit(nogil=True, **_OPTIONS)(function))


def _cached(dispatcher: Any) -> Any:
    if JIT:
        dispatcher._cache = KernelCache(dispatcher.py_func)
    return dispatcher


def source_digest() -> str:
    """A digest of the kernel sources and of the compiler's versions."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_root() -> Path:
    """The folder that holds the cache folders of all versions: NUMBA_CACHE_DIR, else nnjit's own user cache."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nnjit"


def _usable_cache_folder() -> tuple[Path, bool]:
    """The cache folder of these sources, and whether it is the lasting one rather than a temporary stand-in."""
    try:
        folder = cache_root() / source_digest()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        return folder, True
    except (OSError, RuntimeError):
        return Path(tempfile.mkdtemp(prefix="nnjit-cache-")), False


@contextmanager
def sole_writer(function: Any) -> Iterator[None]:
    """Let one process at a time save specialisations of a kernel in the cache folder.

    Two that save one at the same moment give both files the same name, and the cache then answers for one with the
    other's code. Who waits may find what it wants compiled; other kernels are compiled meanwhile.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(CACHE_FOLDER / f"{function.__module__}.{function.__qualname__}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def compiled(dispatcher: Any, kinds: tuple[Any, ...]) -> Any:
    """The compilation of a kernel for arguments of Numba types `kinds`; from the cache, unless what stands there is for
    other types."""
    if kinds not in dispatcher.overloads:
        with sole_writer(dispatcher.py_func):
            dispatcher.compile(kinds)
    if kinds not in dispatcher.overloads:
        dispatcher = njit(**_KERNEL_OPTIONS)(dispatcher.py_func)
        dispatcher.compile(kinds)
    return dispatcher.overloads[kinds]


CACHE_FOLDER, CACHE_LASTS = _usable_cache_folder()
settings.CACHE_DIR = str(CACHE_FOLDER)
