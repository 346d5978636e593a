"""The mathematics of nnjit in plain float64 NumPy, straight from the formulas: the oracle of every kernel.

One `thing_forward` and `thing_backward` per kind of layer, over arrays in the conventional order: images
(N, C, H, W), vectors (N, D), dense weights (F, D), filters (F, C, KH, KW). They compute in the precision that
they are given and leave their arguments as they are. Nothing here knows the kernels. Every module of this
package is imported here, so that the references in a new file register themselves.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
