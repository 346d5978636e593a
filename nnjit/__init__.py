"""nnjit: a command-line neural-network trainer with Numba-compiled kernels."""

__version__ = "0.1.0"
