"""The kinds of layers, one file each; every module of this package is imported here, so a new file registers itself."""

from importlib import import_module
from pkgutil import iter_modules

from nnjit.layers.base import Example, Layer, Shape, ShapeError

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Example", "Layer", "Shape", "ShapeError"]
