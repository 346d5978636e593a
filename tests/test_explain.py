"""Explanations: formulas of every layer, loss and optimizer give the kernels' numbers; worked examples; formats."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np
import pytest

from nnjit.config import load_config
from nnjit.equations import Equation, Equations
from nnjit.errors import ConfigError
from nnjit.explain import FORMATS, Checks, at_the_start, explain
from nnjit.explain.content import _chosen
from nnjit.explain.document import Display, Document
from nnjit.explain.evaluate import Defined, evaluate, value_at
from nnjit.explain.formula import Formula
from nnjit.explain.passes import TOLERANCE, Passes
from nnjit.gradcheck.cases import Case, cases
from nnjit.gradcheck.check import relative_error
from nnjit.gradcheck.probe import Probe
from nnjit.layers import Layer
from nnjit.layers.dense import Dense
from nnjit.losses import HalfSquaredError, Loss
from nnjit.optimizers import Optimizer, OptimizerSite, Sgd

CONFIGS = Path(__file__).parents[1] / "configs"


def written(path: Path, *overrides: str, layer: int | None = None) -> tuple[Document, Checks]:
    loaded = load_config(path, overrides)
    return explain(at_the_start(loaded, "train"), 0, layer)


@pytest.fixture(scope="module")
def worked_example() -> str:
    return FORMATS["text"].render(written(CONFIGS / "two-layer.yaml")[0])


def in_order(text: str, *lines: str) -> bool:
    """Whether the text has the lines, spaces between words aside, one after the other with others between."""
    rest = iter([" ".join(line.split()) for line in text.splitlines()])
    return all(line in rest for line in lines)


def test_the_published_numbers_of_the_worked_example(worked_example: str) -> None:
    assert in_order(
        worked_example,
        "a⁽¹⁾ = [ 0.593269992 0.596884378 ]",
        "a⁽³⁾ = [ 0.751365070 0.772928465 ]",
        "C = ((0.751365070 - 0.01)² + (0.772928465 - 0.99)²) / 2 = 0.298371109",
        "δ⁽²⁾ = [ 0.138498562 -0.038098237 ]",
        "∂C/∂w⁽²⁾ = [ 0.082167041 0.082667628 ]",
        "[ -0.022602540 -0.022740242 ]",
        "∂C/∂w⁽⁰⁾ = [ 0.000438568 0.000877135 ]",
        "[ 0.000497713 0.000995425 ]",
        "w′⁽⁰⁾ = [ 0.149780716 0.199561432 ]",
        "[ 0.249751144 0.299502287 ]",
        "w′⁽²⁾ = [ 0.358916480 0.408666186 ]",
        "[ 0.511301270 0.561370121 ]",
    )


def test_the_worked_example_is_derived_step_by_step(worked_example: str) -> None:
    assert in_order(
        worked_example,
        "z⁽⁰⁾[f] = b⁽⁰⁾[f] + Σ(d=0..1) w⁽⁰⁾[f, d]·x[d]",
        "z⁽⁰⁾[0] = 0.35 + 0.15·0.05 + 0.2·0.1 = 0.3775",
        "a⁽¹⁾[0] = 1 / (1 + exp(-0.3775)) = 0.593269992",
        "C = (Σ(f=0..1) (a⁽³⁾[f] - y[f])²) / 2",
        "∂C/∂a⁽³⁾[f] = a⁽³⁾[f] - y[f]",
        "δ⁽²⁾[f] = ∂C/∂a⁽³⁾[f]·(a⁽³⁾[f]·(1 - a⁽³⁾[f]))",
        "δ⁽²⁾[f] = (a⁽³⁾[f] - y[f])·(a⁽³⁾[f]·(1 - a⁽³⁾[f]))",
        "∂C/∂a⁽¹⁾[d] = Σ(f=0..1) w⁽²⁾[f, d]·δ⁽²⁾[f]",
        "∂C/∂w⁽²⁾[f, d] = δ⁽²⁾[f]·a⁽¹⁾[d]",
        "∂C/∂w⁽²⁾[0, 0] = 0.138498562·0.593269992 = 0.082167041",
        "δ⁽⁰⁾[f] = (Σ(g=0..1) w⁽²⁾[g, f]·δ⁽²⁾[g])·(a⁽¹⁾[f]·(1 - a⁽¹⁾[f]))",
        "w′⁽²⁾[0, 0] = 0.4 - 0.5·0.082167041 = 0.358916480",
    )


HAND = """\
data:
  train: {inputs: x.npy, targets: y.npy}
model:
  - conv2d: {filters: 1, kernel: 2, weight_init: {values: [[[[1, 0], [0, -1]]]]}}
loss: half_squared_error
optimizer: {learning_rate: 0.1}
train: {batch_size: 1}
"""


@pytest.fixture
def hand(tmp_path: Path) -> Path:
    """A 3x3 image with the kernel [[1, 0], [0, -1]]; each output is an entry minus its lower right neighbour, -4."""
    np.save(tmp_path / "x.npy", np.arange(1.0, 10.0).reshape(1, 1, 3, 3))
    np.save(tmp_path / "big.npy", np.linspace(0, 1, 9).reshape(1, 1, 3, 3))
    np.save(tmp_path / "y.npy", -4 - np.array([[[[1.0, 2.0], [3.0, 4.0]]]]))
    path = tmp_path / "hand.yaml"
    path.write_text(HAND)
    return path


def test_a_convolution_worked_by_hand(hand: Path) -> None:
    document, checks = written(hand)
    assert in_order(
        FORMATS["text"].render(document),
        "From 1x3x3 to 1x2x2. Height: 3 and 0 + 0 of padding, a window of 2 in steps of 1, ⌊(3 + 0 + 0 - 2) /",
        "z⁽⁰⁾[f, i, j] = b⁽⁰⁾[f] + Σ(c=0..0, u=0..1, v=0..1) w⁽⁰⁾[f, c, u, v]·x[c, i + u, j + v]",
        "z⁽⁰⁾[0] = [ -4 -4 ]",
        "z⁽⁰⁾[0, 0, 0] = 1·1 + (-1)·5 = -4",
        "δ⁽⁰⁾[0] = [ 1 2 ]",
        "[ 3 4 ]",
        "padded[f, p, q] = δ⁽⁰⁾[f, p - 1, q - 1]",
        "padded[0] = [ 0 0 0 0 ]",
        "[ 0 1 2 0 ]",
        "[ 0 3 4 0 ]",
        "[ 0 0 0 0 ]",
        "rotated[f, c, u, v] = w⁽⁰⁾[f, c, 1 - u, 1 - v]",
        "rotated[0, 0] = [ -1 0 ]",
        "[ 0 1 ]",
        "∂C/∂x[c, p, q] = Σ(f=0..0, u=0..1, v=0..1) rotated[f, c, u, v]·padded[f, p + u, q + v]",
        "∂C/∂x[0] = [ 1 2 0 ]",
        "[ 3 3 -2 ]",
        "[ 0 -3 -4 ]",
        "∂C/∂w⁽⁰⁾[0, 0] = [ 37 47 ]",
        "[ 67 77 ]",
        "∂C/∂w⁽⁰⁾[0, 0, 0, 0] = 1·1 + 2·2 + 3·4 + 4·5 = 37",
        "∂C/∂b⁽⁰⁾[0] = 1 + 2 + 3 + 4 = 10",
    )
    assert (checks.entries, checks.wrong) == (4 + 9 + 4 + 1, 0)


def test_a_stride_spreads_the_gradient(hand: Path) -> None:
    np.save(hand.parent / "y.npy", np.full((1, 1, 2, 2), 1.0))
    text = FORMATS["text"].render(written(hand, "model.0.conv2d.stride=2", "model.0.conv2d.padding=1")[0])
    assert in_order(
        text,
        "From 1x3x3 to 1x2x2. Height: 3 and 1 + 1 of padding, a window of 2 in steps of 2, ⌊(3 + 1 + 1 - 2) /",
        "z⁽⁰⁾[0] = [ -1 -3 ]",
        "[ -7 -4 ]",
        "padded[f, p, q] = δ⁽⁰⁾[f, p / 2, q / 2]",
        "padded[0] = [ -2 0 -4 0 ]",
        "[ 0 0 0 0 ]",
        "[ -8 0 -5 0 ]",
        "[ 0 0 0 0 ]",
        "∂C/∂x[0] = [ 2 0 4 ]",
        "[ 0 -5 0 ]",
        "[ 8 0 5 ]",
    )


def environment(case: Case, size: float = 1.0) -> dict[str, Any]:
    """The arrays of a case of one layer by the names that its formulas have for them; one sample, no fusing. Inputs
    are multiplied by `size`."""
    probe = Case(case.title, case.kinds, case.layers, case.shape, case.loss, 1).probe(np.float64, 0)
    probe.bound.x.write(probe.bound.x.read(1) * size)
    probe.backward()
    (site,) = probe.bound.sites
    assert site.dx is not None and site.dout is not None
    found: dict[str, Any] = {name: getattr(site, name).read(1)[0] for name in ("x", "out", "dx", "dout")}
    found["target"], found["C"] = probe.target.read(1)[0], np.float64(probe.cost())
    for name, value in probe.network.layout.unpack(probe.network.weights).items():
        found[name.removeprefix("layers.0.")] = value
        found[f"d{name.removeprefix('layers.0.')}"] = probe.bound.named_gradients()[name]
    return found


def wrong_entries(equations: tuple[Equation, ...], arrays: dict[str, Any]) -> list[str]:
    """The entries of the kernels' arrays that the formulas do not give; of a large array, 80 are looked at, its first
    and its last among them."""
    found = []
    rng = np.random.default_rng(0)
    for equation in equations:
        formula = Formula.parse(equation.text, {})
        if formula.array not in arrays:
            assert equation.shape is not None
            arrays[formula.array] = Defined(formula, equation.shape, arrays)
            continue
        array = arrays[formula.array]
        looked_at = set(range(array.size))
        if array.size > 80:
            looked_at = {0, array.size - 1, *rng.choice(array.size, 78, replace=False).tolist()}
        for place in (tuple(map(int, np.unravel_index(k, array.shape))) for k in sorted(looked_at)):
            if not relative_error(value_at(formula, place, arrays), float(array[place]), 1e-6) < 1e-9:
                found.append(f"{formula.array}{list(place)}")
    return found


def explained(case: Case, equations: Equations | None) -> list[str]:
    """What is wrong with the equations of a case's layer."""
    if equations is None:
        return [f"{case.kinds[0]} has no equations"]
    arrays = environment(case)
    lefts = {Formula.parse(equation.text, {}).array for equation in (*equations.forward, *equations.backward)}
    parameters = case.layers[0].parameters(case.shape)
    wanted = {"out", "dx", *(f"d{parameter.name}" for parameter in parameters)}
    return sorted(wanted - lefts) + wrong_entries((*equations.forward, *equations.backward), arrays)


SINGLE = [case for case in cases(np.float64) if len(case.layers) == 1 and case.kinds[0] in Layer.kinds()]
# Scores for one class alone are nothing that a config can ask for.
LOSSES = [
    case
    for case in cases(np.float64)
    if case.kinds[0] in Loss.kinds()
    and not (case.loss.needs_labels and case.layers[0].output_shape(case.shape) == (1,))
]


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.title)
def test_the_equations_of_every_layer_give_the_kernels_numbers(case: Case) -> None:
    assert explained(case, case.layers[0].equations(case.shape)) == []


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.title)
def test_the_reason_for_every_size_is_an_equality(case: Case) -> None:
    equations = case.layers[0].equations(case.shape)
    assert equations is not None and equations.size.endswith(".")
    for formula in equations.size.split("$")[1::2]:
        left, right = Formula.parse(formula, {}).sides
        assert evaluate(left, {}) == evaluate(right, {})


def test_every_layer_has_a_case() -> None:
    assert {case.kinds[0] for case in SINGLE} == Layer.kinds().keys()


DENSE = Case("dense", ("dense",), (Dense(units=3),), (5,), HalfSquaredError(), 1)


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("dout[f] * x[d]", "1.01 * dout[f] * x[d]", "dweight[0, 0]"),
        ("dout[f] * x[d]", "dout[f] * x[4 - d]", "dweight[0, 0]"),
        ("dbias[f] = dout[f]", "dbias[f] = -dout[f]", "dbias[0]"),
        ("bias[f] + ", "", "out[0]"),
        ("dx[d] =", "other[d] =", "dx"),
    ],
)
def test_a_wrong_equation_is_found(right: str, wrong: str, found: str) -> None:
    equations = DENSE.layers[0].equations(DENSE.shape)
    assert equations is not None
    planted = Equations(
        tuple(item._replace(text=item.text.replace(right, wrong)) for item in equations.forward),
        tuple(item._replace(text=item.text.replace(right, wrong), shape=(5,)) for item in equations.backward),
    )
    assert explained(DENSE, planted)[0] == found


def test_a_layer_without_equations_is_named() -> None:
    assert explained(DENSE, Layer.equations(DENSE.layers[0], DENSE.shape)) == ["dense has no equations"]


def test_every_loss_has_a_case() -> None:
    assert {case.kinds[0] for case in LOSSES} == Loss.kinds().keys()


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.title)
def test_the_equations_of_every_loss_give_the_kernels_numbers(case: Case) -> None:
    shape = case.layers[0].output_shape(case.shape)
    equations = case.loss.equations(shape)
    assert equations is not None, f"{case.kinds[0]} has no equations"
    assert wrong_entries((*equations.forward, *equations.backward), environment(case)) == []


@pytest.mark.parametrize("size", [40.0, 800.0, 3e4])
@pytest.mark.parametrize("kind", [*Loss.kinds(), "softmax"])
def test_the_equations_give_the_kernels_numbers_for_scores_far_apart(kind: str, size: float) -> None:
    """exp of such scores overflows, and their shares round to 0 and 1."""
    layer = Layer.kinds().get(kind, Dense).model_validate({} if kind in Layer.kinds() else {"units": 7})
    loss = Loss.kinds().get(kind, HalfSquaredError)()
    case = Case(kind, (kind,), (cast(Layer, layer),), (7,), cast(Loss, loss), 1)
    arrays = environment(case, size)
    assert np.abs(arrays["x"]).max() > size
    equations = case.layers[0].equations((7,)) if kind in Layer.kinds() else case.loss.equations((7,))
    assert equations is not None
    with np.errstate(all="raise"):
        assert wrong_entries((*equations.forward, *equations.backward), arrays) == []
    assert all(np.isfinite(arrays[name]).all() for name in ("out", "dout", "dx", "C"))


OPTIMIZERS: list[dict[str, Any]] = [
    {"type": "sgd", "learning_rate": 0.5},
    {"type": "sgd", "learning_rate": 0.5, "weight_decay": 0.01},
    {"type": "sgd", "learning_rate": 0.5, "weight_decay": 0.01, "momentum": 0.9},
    {"type": "sgd", "learning_rate": 0.5, "weight_decay": 0.01, "momentum": 0.9, "nesterov": True},
]


def test_every_optimizer_has_a_case() -> None:
    assert {fields["type"] for fields in OPTIMIZERS} == Optimizer.kinds().keys()


@pytest.mark.parametrize("fields", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("decays", [True, False])
def test_the_equations_of_every_optimizer_give_the_kernels_step(fields: dict[str, Any], decays: bool) -> None:
    from nnjit.kernels.program import Program

    optimizer = cast(Optimizer, Optimizer.kinds()[fields["type"]].model_validate(fields))
    lanes = 8
    weights, gradients = np.full((1, lanes), 0.7), np.full((1, lanes), -0.3)
    state = {name: np.zeros((1, lanes)) for name in optimizer.state}
    site = OptimizerSite(weights, gradients, state, np.full(1, optimizer.learning_rate), int(decays))
    environment: dict[str, Any] = {"w": 0.7, "dw": -0.3}
    Program([optimizer.bind(site)]).run()
    for equation in optimizer.equations(decays):
        formula = Formula.parse(equation.text, {})
        environment[formula.array] = value_at(formula, (), environment)
    assert environment["new"] == pytest.approx(weights[0, 0], rel=1e-14)


EVERYTHING = """\
data:
  train: {inputs: x.npy, targets: y.npy}
  classes: 3
model:
  - conv2d: {filters: 20, kernel: 3, padding: same, stride: [1, 2]}
  - relu
  - max_pool: 2
  - average_pool: {window: 2, stride: 1, padding: 1}
  - flatten
  - dense: 5
  - tanh
  - dense: {units: 4, bias: false}
  - sigmoid
  - dense: 3
  - softmax
loss: softmax_cross_entropy
optimizer: {learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01}
train: {batch_size: 1}
"""


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of every kind of layer; a name that every format must escape."""
    folder = tmp_path_factory.mktemp("everything")
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.normal(size=(2, 1, 6, 14)))
    np.save(folder / "y.npy", np.array([1, 2], np.int32))
    path = folder / "a_<b>&*c*.yaml"
    path.write_text(EVERYTHING)
    return path


@pytest.fixture(scope="module")
def document(everything: Path) -> Document:
    document, checks = written(everything)
    assert checks.wrong == 0 and checks.entries > 100
    assert checks.formula_error < 1e-9 and checks.difference_error < TOLERANCE
    return document


def test_the_network_of_the_formats_has_every_layer(everything: Path) -> None:
    assert {layer.kind() for layer in load_config(everything).config.model} == Layer.kinds().keys()


def test_large_arrays_are_shown_as_statistics_and_a_part(document: Document) -> None:
    text = FORMATS["text"].render(document)
    shown = text.partition("Layer 0: conv2d")[2]
    assert "x has the shape 1 x 6 x 14. Of its 84 numbers 0 are 0; least -" in shown
    assert "b⁽⁰⁾ has the shape 20; all its 20 numbers are 0." in shown
    assert re.search(r"\n    z⁽⁰⁾\[\d+, \d…\d, \d…\d\] = \[ ", shown)
    assert "\npadded has the shape 20 x 8 x 16. A part of it:\n\n    padded[10, 2…6, 6…10] = [ " in shown


def test_text_fits_a_terminal_but_for_matrices(document: Document) -> None:
    lines = FORMATS["text"].render(document).splitlines()
    assert max(len(line) for line in lines if not line.rstrip().endswith(("]", "ok"))) <= 120


def test_a_long_maximum_is_parted_between_its_numbers() -> None:
    numbers = ", ".join(f"{k}.123456789" for k in range(20))
    shown = FORMATS["text"].block(Display(Formula.parse(f"m = max({numbers}) = 19.123456789", {})))
    assert not any(line.endswith(" ") for line in shown.splitlines())
    assert max(map(len, shown.splitlines())) <= 104 and " ".join(shown.split()) == f"m = max({numbers}) = 19.123456789"
    assert shown.startswith("    m = max(0.123456789, 1.123456789, ")


def test_markdown_is_well_formed(document: Document) -> None:
    text = FORMATS["markdown"].render(document)
    assert text.startswith("# ") and r"/a\_\<b>&\*c\*.yaml, explained" in text.splitlines()[0]
    displays = re.findall(r"\$\$\n(.*?)\n\$\$", text, re.S)
    assert len(displays) == text.count("$$") / 2 > 50
    inline = re.findall(r"\$([^$\n]+)\$", re.sub(r"\$\$\n.*?\n\$\$", "", text, flags=re.S))
    for latex in [*displays, *inline]:
        depth = 0
        for brace in re.findall(r"[{}]", latex):
            depth += 1 if brace == "{" else -1
            assert depth >= 0, latex
        assert depth == 0, latex
        assert len(re.findall(r"\\left(?!arrow)", latex)) == len(re.findall(r"\\right", latex)), latex
        assert latex.count(r"\begin") == latex.count(r"\end"), latex
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_html_is_well_formed_and_needs_nothing_else(document: Document) -> None:
    page = FORMATS["html"].render(document)
    root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    title = root.findtext("head/title")
    assert {element.get("name"): element.get("content") for element in root.iter("meta")}["viewport"] == (
        "width=device-width, initial-scale=1"
    )
    assert title is not None and title.endswith("a_<b>&*c*.yaml, explained")
    tags = {element.tag for element in root.iter()}
    assert {"math", "mfrac", "msubsup", "munderover", "mtable", "table"} <= tags
    assert not tags & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"(?:src|href)=\"[^#]|url\(|@import|https?:", page)
    targets = {element.get("id") for element in root.iter() if element.get("id")}
    assert {str(link.get("href")).removeprefix("#") for link in root.iter("a")} == targets
    for fixed, count in {"mfrac": 2, "msubsup": 3, "msub": 2, "msup": 2, "munderover": 3, "munder": 2}.items():
        assert all(len(element) == count for element in root.iter(fixed)), fixed


def test_formats_agree_on_the_numbers(document: Document) -> None:
    def numbers(text: str) -> list[str]:
        return re.findall(r"\d\.\d{9}(?!\d)", text)

    text, markdown = (numbers(FORMATS[name].render(document)) for name in ("text", "markdown"))
    assert len(text) > 1000 and text == markdown
    # The page's head holds no such number, and its tables and formulas stand in the same order.
    assert numbers(FORMATS["html"].render(document)) == text


MEASURE = """
<script>
  const sizes = [...document.querySelectorAll("math, mfrac, msubsup, munderover, mtable")].map(
    element => element.getBoundingClientRect());
  const bars = [...document.querySelectorAll("mfrac")].map(element => element.getBoundingClientRect().height);
  document.documentElement.style.width = "360px";
  document.documentElement.dataset.outside = document.body.scrollWidth - document.body.clientWidth;
  document.documentElement.dataset.math = document.querySelectorAll("math").length;
  document.documentElement.dataset.empty = sizes.filter(size => !(size.width > 0 && size.height > 0)).length;
  document.documentElement.dataset.lowest = Math.min(...bars);
</script>
"""
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no chromium on the PATH")
def test_a_browser_typesets_the_formulas(document: Document, tmp_path: Path) -> None:
    page = FORMATS["html"].render(document)
    (tmp_path / "page.html").write_text(page.replace("</body>", MEASURE + "</body>"))
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    done = subprocess.run(
        [
            str(BROWSER),
            *options.split(),
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            f"file://{tmp_path}/page.html",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    facts = dict(re.findall(r"data-(\w+)=\"([^\"]*)\"", done.stdout.partition(">\n<head")[0][:500]))
    assert int(facts["math"]) == page.count("<math ") > 100
    assert facts["empty"] == "0"
    # On a page as narrow as a phone nothing sticks out: what is wider scrolls in its own place.
    assert facts["outside"] == "0"
    # A fraction is higher than a line: it is drawn as one, not as text.
    assert float(facts["lowest"]) > 20


def plant(monkeypatch: pytest.MonkeyPatch, name: str, place: Any, factor: float) -> None:
    """Have every backward pass multiply the gradient of parameter `name` at `place` by `factor`."""
    honest = Probe.backward

    def planted(probe: Probe, *arguments: Any) -> None:
        honest(probe, *arguments)
        assert probe.bound.gradients is not None
        probe.bound.gradients[probe.network.layout.indices(name)[place]] *= factor

    monkeypatch.setattr(Probe, "backward", planted)


def test_a_kernel_that_disagrees_is_shown(hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient wrong by 1 % agrees with neither the formula nor the difference."""
    plant(monkeypatch, "layers.0.weight", (0, 0, 1, 1), 1.01)
    document, checks = written(hand)
    assert (checks.wrong, checks.entries) == (1, 18)
    assert checks.formula_error == pytest.approx(0.01 / 1.01) == checks.difference_error
    text = FORMATS["text"].render(document)
    assert re.search(
        r"∂C/∂w⁽⁰⁾\[0, 0, 1, 1\] +77 +77\.77 +(77\.000000000|76\.999999999\d*|77) +9\.9e-03  WRONG\n", text
    )
    assert "1 DISAGREES." in text


@pytest.mark.parametrize("divide", [0.01, 0.0001])
def test_scores_of_thousands_are_no_fault(divide: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost's rounding is that of the scores; it hides no gradient that is wrong by 1 %."""
    _, checks = written(CONFIGS / "digits.yaml", f"data.divide={divide}")
    assert (checks.wrong, checks.entries) == (0, 115)
    assert checks.one_sided > 10 and checks.difference_error < TOLERANCE
    plant(monkeypatch, "layers.0.bias", ..., 1.01)
    _, checks = written(CONFIGS / "digits.yaml", f"data.divide={divide}")
    assert checks.wrong == 8


def test_what_is_no_number_is_not_overlooked(hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "layers.0.weight", (0, 0, 0, 1), np.nan)
    document, checks = written(hand)
    assert checks.wrong == 1 and np.isnan([checks.formula_error, checks.difference_error]).all()
    text = " ".join(FORMATS["text"].render(document).split())
    assert "largest relative error is nan between kernels and formulas, nan between kernels and differences" in text


def test_of_a_large_gradient_what_is_no_number_is_looked_at() -> None:
    gradient = np.arange(1000.0)
    gradient[[3, 500]] = np.nan
    assert {3, 500, 999, 998, 997} <= set(_chosen(gradient))


RELU = "model=[{conv2d: {filters: 1, kernel: 2, weight_init: {values: [[[[1, 0], [0, -1]]]]}}}, relu]"


def test_a_kink_on_one_side_leaves_the_difference_on_the_other(hand: Path) -> None:
    """A bias of 0 where the input is blank puts a relu at exactly 0: a little less and it is off, as it counts."""
    np.save(hand.parent / "x.npy", np.array([[[[0, 2.0, 0], [0, 0, 0], [0, 0, 0]]]]))
    document, checks = written(hand, RELU)
    assert (checks.wrong, checks.one_sided, checks.kinks) == (0, 9, 1)
    text = FORMATS["text"].render(document)
    # z is (0, 2; 0, 0) and the second target -6.
    assert re.search(r"∂C/∂b⁽⁰⁾\[0\] +8 +8 +(8\.00000000\d|7\.99999999\d) +\d\.\de-\d\d  ok, one side\n", text)
    # An entry of the input that raises one relu and lowers another has kinks on both sides.
    assert in_order(text, "∂C/∂x[0, 1, 1] 0 0 crosses a kink ok")
    assert (
        "For 9 it is the difference on one side alone: on the other a relu or a maximum decides otherwise than at the "
        "entry. For 1 there is no difference: one decides otherwise on both sides. All agree." in " ".join(text.split())
    )


def test_a_wrong_gradient_on_one_side_is_found(hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(hand.parent / "x.npy", np.array([[[[0, 2.0, 0], [0, 0, 0], [0, 0, 0]]]]))
    plant(monkeypatch, "layers.0.bias", ..., 1.01)
    document, checks = written(hand, RELU)
    assert checks.wrong == 1 and checks.difference_error == pytest.approx(0.01 / 1.01)
    assert re.search(r"∂C/∂b⁽⁰⁾\[0\] .*  WRONG, one side\n", FORMATS["text"].render(document))


def test_the_rule_from_delta_to_delta(hand: Path) -> None:
    """As books write it, from the loss and from a convolution; from a dense layer in the worked example."""
    layers = "conv2d: {filters: 2, kernel: 2}, sigmoid, conv2d: {filters: 1, kernel: 2, padding: 1}, tanh"
    subject = at_the_start(load_config(hand, [f"model=[{layers}]", "data.train.targets=big.npy"]), "train")
    text = FORMATS["text"].render(explain(subject, 0, None)[0])
    assert in_order(
        text,
        "With what the loss gives it, in one formula:",
        "δ⁽²⁾[c, i, j] = (a⁽³⁾[c, i, j] - y[c, i, j])·(1 - a⁽³⁾[c, i, j]²)",
        "With what layer 2 gives it, in one formula:",
        "δ⁽⁰⁾[c, i, j]",
        "= (Σ(f=0..0, u=0..1, v=0..1) rotated[f, c, u, v]·padded[f, i + u, j + v])·(a⁽¹⁾[c, i, j]·(1 - a⁽¹⁾[c, i, j]))",
        "for c = 0…1, i = 0…1, j = 0…1",
    )


def test_softmax_and_cross_entropy_with_numbers(document: Document) -> None:
    """What is shown is what is computed: the largest score comes off before exp."""
    text = FORMATS["text"].render(document)
    assert in_order(
        text,
        "m = max(f=0..2) z⁽⁹⁾[f]",
        "total = Σ(g=0..2) exp(z⁽⁹⁾[g] - m)",
        "a⁽¹⁰⁾[f] = exp(z⁽⁹⁾[f] - m) / total",
        "m = max(f=0..2) a⁽¹⁰⁾[f]",
        "total = Σ(g=0..2) exp(a⁽¹⁰⁾[g] - m)",
        "s[f] = exp(a⁽¹⁰⁾[f] - m) / total",
        "C = -Σ(f=0..2) y[f]·(a⁽¹⁰⁾[f] - m - log(total))",
        "∂C/∂a⁽¹⁰⁾[f] = s[f] - y[f]",
    )
    for letter, total in zip(
        ("z⁽⁹⁾", "a⁽¹⁰⁾"), re.findall(r"^    total = exp\([^=]*= (\S+)$", text, re.M), strict=True
    ):
        scores = re.search(rf"^    {letter} = \[ (.*) \]$", text, re.M)
        assert scores is not None
        values = np.array([float(score) for score in scores[1].split()])
        assert float(total) == pytest.approx(np.exp(values - values.max()).sum(), abs=1e-8)


def test_what_is_not_in_one_formula(document: Document) -> None:
    """An activation before a pooling has no rule of its own in books; softmax is none."""
    text = FORMATS["text"].render(document)
    assert re.findall(r"With what (.*) gives it, in one formula", text) == ["layer 9", "layer 7"]


def test_what_has_no_equations_is_refused_by_name(hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(HalfSquaredError, "equations", Loss.equations)
        with pytest.raises(ConfigError) as caught:
            written(hand)
        where = f"{hand}:5:7: loss.half_squared_error"
        assert str(caught.value) == f"{where}: cannot be explained: half_squared_error has no equations"
    monkeypatch.setattr(Sgd, "equations", Optimizer.equations)
    with pytest.raises(ConfigError) as caught:
        written(hand)
    assert str(caught.value) == f"{hand}:6:12: optimizer.sgd: cannot be explained: sgd has no equations"


def test_one_layer_alone(everything: Path, document: Document) -> None:
    alone = FORMATS["text"].render(written(everything, layer=7)[0])
    assert re.findall(r"^Layer \d.*", alone, re.M) == ["Layer 7: dense", "Layer 7: dense"]
    assert "Loss: " not in alone and "w′⁽⁷⁾ = " in alone and "w′⁽⁵⁾" not in alone
    whole = FORMATS["text"].render(document)
    assert all(line in whole for line in alone.splitlines() if " = [ " in line)


def test_the_network_keeps_its_parameters_after_the_step(hand: Path) -> None:
    loaded = load_config(hand, ["optimizer.learning_rate=0.0001"])
    passes = Passes(at_the_start(loaded, "train"), 0)
    before = passes.network.weights.copy()
    after, cost = passes.after_step(loaded.config.optimizer)
    # The squared norm of the gradient times the step, to first order.
    assert passes.cost - cost == pytest.approx(0.0001 * (37**2 + 47**2 + 67**2 + 77**2 + 10**2), rel=0.2)
    assert after["layers.0.bias"] == pytest.approx(-0.001)
    assert np.array_equal(passes.network.weights, before)
