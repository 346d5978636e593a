"""What may import what, what an import may load, and that everything says what it must about itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nnjit
from nnjit.component import Fields
from nnjit.config import Config
from nnjit.data.section import CsvSource, DataSection
from nnjit.initializers import Initializer
from nnjit.layers import Layer
from nnjit.losses import Loss
from nnjit.optimizers import Optimizer

PACKAGE = Path(nnjit.__file__).parent

# Imports point from a later part to an earlier one, or stay on one line.
LEVELS = [
    ["equations", "errors", "kernels"],
    ["tuning"],
    ["component", "reference", "stopping"],
    ["initializers"],
    # A layer is bound to buffers through its site.
    ["layers", "buffers", "parameters", "passes", "site"],
    ["losses", "metrics", "optimizers", "stages"],
    ["data.section"],
    ["config"],
    ["data"],
    ["network", "checkpoint"],
    ["steps", "run_folder", "prepare", "summary"],
    ["divergence", "gradcheck", "trainer"],
    ["bench", "doctor", "explain", "trained", "warmup"],
    ["reproduce", "resuming"],
    ["cli"],
    ["__main__"],
]
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}


def imports(source: str, module: str) -> Iterator[str]:
    """The modules that a module's code imports when it runs, at the top and within functions; not those for types."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending.extend(node.orelse)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            pending.extend(ast.iter_child_nodes(node))


def part_of(name: str) -> str:
    """The entry of LEVELS that an import of nnjit belongs to: nnjit.data.section.Source to data.section."""
    parts = name.split(".")[1:]
    return next((p for p in (".".join(parts[:2]), parts[0]) if p in LEVEL), parts[0]) if parts else ""


def module_name(path: Path) -> str:
    return ".".join(["nnjit", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


def wrong_imports(source: str, module: str) -> list[str]:
    """The imports of a module that point the wrong way, or out of where it must stay."""
    found = []
    own = part_of(module)
    for name in imports(source, module):
        if not name.startswith("nnjit."):
            allowed = {"kernels": {"llvmlite", "numba", "numpy"}, "reference": {"numpy"}}.get(own)
            root = name.partition(".")[0]
            if allowed and root not in allowed and root not in sys.stdlib_module_names:
                found.append(f"{module} imports {name}")
            continue
        other = part_of(name)
        alone = own in ("kernels", "reference", "errors")
        if other not in ("", own, "__version__") and (alone or LEVEL.get(other, 99) > LEVEL.get(own, 99)):
            found.append(f"{module} imports {name}")
    return found


def asked_for_the_machine(source: str) -> list[str]:
    """What a module imports, from nnjit or not, that knows the CPU or the threads."""
    knowing = ("nnjit.tuning.machine", "nnjit.tuning.cost", "nnjit.kernels.threads", "numba", "os", "platform")
    return [name for name in imports(source, "") if name.startswith(knowing)]


@pytest.mark.parametrize("name", ["algorithms", "sums"])
def test_what_changes_bits_follows_from_sizes_alone(name: str) -> None:
    assert asked_for_the_machine((PACKAGE / "tuning" / f"{name}.py").read_text(encoding="utf-8")) == []


def test_a_choice_that_asks_for_the_machine_is_seen() -> None:
    source = "from nnjit.tuning import machine\ndef parts():\n    from nnjit.kernels.threads import get_threads"
    assert len(asked_for_the_machine(source)) == 2


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or path.stem != "__init__"]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    module = module_name(path)
    assert part_of(module) in LEVEL, f"{module} has no place in LEVELS, the order of imports"
    assert wrong_imports(path.read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("module", "source", "imported"),
    [
        ("kernels.sums", "import click", "click"),
        ("kernels.sums", "from nnjit.buffers import Buffer", "nnjit.buffers.Buffer"),
        ("reference.dense", "import numba", "numba"),
        ("layers.dense", "def bind():\n    from nnjit import network", "nnjit.network"),
        ("network", "from nnjit.trainer import Trainer", "nnjit.trainer.Trainer"),
        ("config.load", "from nnjit.data.dataset import Split", "nnjit.data.dataset.Split"),
        ("config.load", "from nnjit.data.section import Source", None),
        ("layers.dense", "if TYPE_CHECKING:\n    from nnjit.network import Network", None),
    ],
)
def test_an_import_the_wrong_way_is_seen(module: str, source: str, imported: str | None) -> None:
    expected = [f"nnjit.{module} imports {imported}"] if imported else []
    assert wrong_imports(source, f"nnjit.{module}") == expected


def loaded_by(statement: str) -> set[str]:
    """The modules that are loaded once a fresh interpreter has run a statement."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {statement}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "module", ["cli", "component", "config", "errors", "initializers", "layers", "losses", "optimizers", "metrics"]
)
def test_reading_a_config_loads_neither_numpy_nor_numba(module: str) -> None:
    loaded = loaded_by(f"import nnjit.{module}")
    assert f"nnjit.{module}" in loaded
    assert not loaded & {"numpy", "numba", "llvmlite", "safetensors"}


def test_the_reference_loads_nothing_else_of_nnjit() -> None:
    loaded = loaded_by("import nnjit.reference.network")
    assert not loaded & {"numba", "llvmlite"}
    assert {name for name in loaded if name.startswith("nnjit.") and part_of(name) != "reference"} == set()


def test_what_is_loaded_is_seen() -> None:
    assert {"numba", "numpy", "nnjit.kernels.simd"} <= loaded_by("import nnjit.network")


# What kernels and settings say about themselves

NO_ARRAYS = {
    "task", "thread", "form", "tile", "last", "bias_tile", "extent", "epilogue", "window", "tiling", "classes", "chunk",
    "decayed", "nesterov", "threshold", "samples", "planes", "bands", "edges", "cut", "rows", "row_step", "map_step",
    "groups", "width", "strip", "taps_tile", "tiles", "share", "shares", "cutout", "adds", "piece", "whole", "of_tile",
    "columns", "taps", "along", "tasks", "in_lanes", "by_fours",
}  # fmt: skip
SHAPED = re.compile(r"((?:\w+, )*\w+) (?:View |Weights |Scalars |Spans )?\([\w*/, .+-]+\)")


def kernels(source: str) -> Iterator[ast.FunctionDef]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and any(ast.unparse(d) == "kernel" for d in node.decorator_list):
            yield node


def arrays_without_shape(function: ast.FunctionDef) -> list[str]:
    """The array arguments to which the function's docstring gives no shape."""
    text = " ".join((ast.get_docstring(function) or "").split())
    shaped = {name for names in SHAPED.findall(text) for name in names.split(", ")}
    return [a.arg for a in function.args.args if a.arg not in shaped | NO_ARRAYS]


KERNELS = [
    (path.stem, function)
    for path in sorted((PACKAGE / "kernels").rglob("*.py"))
    for function in kernels(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("file", "function"), KERNELS, ids=[f"{file}.{function.name}" for file, function in KERNELS])
def test_a_kernel_gives_every_array_a_shape(file: str, function: ast.FunctionDef) -> None:
    assert arrays_without_shape(function) == []


def test_an_array_without_shape_is_seen() -> None:
    documented = '@kernel\ndef f(task, x, y, w, out):\n    """x, y (N, L)  out View (N, C, I, J), w is a weight"""'
    assert [arrays_without_shape(function) for function in kernels(documented)] == [["w"]]
    assert len(KERNELS) >= 20


def settings_classes(family: type[Fields] = Fields) -> Iterator[type[Fields]]:
    """Every class of typed fields that a config may hold, and their families."""
    for child in family.__subclasses__():
        if child.__module__.startswith("nnjit.") and not child.__name__.startswith("_"):
            yield child
        yield from settings_classes(child)


@pytest.mark.parametrize("settings", list(settings_classes()), ids=lambda settings: settings.__name__)
def test_every_setting_is_explained(settings: type[Fields]) -> None:
    assert settings.__doc__
    assert settings.model_fields.keys() - {"type"} - settings.descriptions().keys() == set()


def test_settings_are_found() -> None:
    families = (Layer, Loss, Optimizer, Initializer)
    kinds = {kind for family in families for kind in family.kinds().values()}
    assert {Config, DataSection, CsvSource, *kinds} <= set(settings_classes())
