"""The last samples of a batch, too few to be worth a block: sums with rows in the lanes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from battery import DTYPES, TOLERANCE, Passes, Stack, by_reference, errors, remainders
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from nnjit.buffers import Border, Buffer
from nnjit.data.dataset import Split
from nnjit.kernels.batches import APART_VECTORS, apart_tasks, samples_apart
from nnjit.kernels.compiler import kernel
from nnjit.kernels.contraction import Extent, View
from nnjit.kernels.contraction_remainder_weights import rows_of_samples
from nnjit.kernels.contraction_samples import contract_samples
from nnjit.kernels.program import Call, Program
from nnjit.kernels.simd import lanes, store
from nnjit.kernels.tiles import TileShape, tile_store
from nnjit.kernels.transposition import lanes_across, tile_across, tile_of_lanes, tile_store_corner
from nnjit.kernels.winograd_transforms import FORMS
from nnjit.layers.activations import Relu, Sigmoid, Softmax, Tanh
from nnjit.layers.base import Layer
from nnjit.layers.conv2d import Conv2d
from nnjit.layers.dense import Dense
from nnjit.layers.flatten import Flatten
from nnjit.layers.pooling import MaxPool
from nnjit.network import Network
from nnjit.reference.network import forward
from nnjit.steps import Feed, Prediction, Scaling
from nnjit.tuning import machine
from nnjit.tuning.algorithms import ImagePass, WeightsPass, choose_remainder, choose_weights_remainder, form_cost
from nnjit.tuning.contraction_remainder import choose_remainder_tile, last_remainder_tile
from nnjit.tuning.contraction_samples import choose_samples_tile

NETWORKS: dict[str, tuple[list[Layer], tuple[int, ...]]] = {
    # More rows than lanes, which do not fill the last vector; taps that meet the border; a derivative backwards.
    "direct": (
        [
            Conv2d(filters=19, kernel=(3, 2), padding="same"),
            Tanh(),
            Conv2d(filters=3, kernel=(3, 3), padding="full", algorithm="direct"),
            Relu(),
        ],
        (5, 9, 7),
    ),
    # Phases of a gradient to the input, some of which read nothing.
    "strides": ([Conv2d(filters=35, kernel=(2, 3), stride=(3, 2)), Sigmoid(), Conv2d(filters=4, kernel=1)], (3, 11, 8)),
    "pooled": (
        [
            Conv2d(filters=6, kernel=5, padding="same", algorithm="direct"),
            Relu(),
            MaxPool(window=2),
            Conv2d(filters=17, kernel=(2, 3), algorithm="direct"),
            Sigmoid(),
            MaxPool(window=2),
        ],
        (2, 12, 11),
    ),
    # Outputs that do not fill the last group, more groups than fit a tile.
    "dense": (
        [
            Flatten(),
            Dense(units=83),
            Tanh(),
            Dense(units=20, bias=False),
            Relu(),
            Dense(units=5),
        ],
        (3, 4, 3),
    ),
    "both": (
        [Conv2d(filters=18, kernel=2, algorithm="direct"), Relu(), Flatten(), Dense(units=19), Sigmoid()],
        (2, 4, 5),
    ),
    "few maps": ([Conv2d(filters=1, kernel=5, padding="same")], (120, 8, 5)),
    "winograd": ([Conv2d(filters=33, kernel=3, padding="same"), Relu(), MaxPool(window=2)], (20, 8, 10)),
    "winograd overlap": ([Conv2d(filters=20, kernel=5), Relu()], (20, 10, 12)),
}


def passes(name: str, dtype: Any, samples: int, taken: bool) -> tuple[Passes, Passes, list[str]]:
    """What a network gives for some samples, what the formulas do, and the kernels that were called."""
    layers, shape = NETWORKS[name]
    with remainders(taken):
        stack = Stack(layers, shape, dtype, batch_size=samples)
    x, dout = stack.random(samples)
    called = [call.kernel.__name__ for call in (*stack.bound.forward, *stack.bound.backward)]
    return stack.run(x, dout), by_reference(layers, stack.parameters(), x, dout), called


CONVOLUTIONS = [name for name in NETWORKS if name != "dense"]
"""Those that take the last samples of a batch apart in training."""

OTHER_SUMS = ("few maps", "winograd", "winograd overlap")
"""Networks whose whole blocks are computed map by map, or by Winograd's algorithm."""


@pytest.mark.usefixtures("few_tiles")
@pytest.mark.parametrize(
    ("name", "dtype", "blocks"),
    [*((name, np.float32, 1) for name in CONVOLUTIONS), ("direct", np.float64, 0), ("winograd", np.float64, 0)],
)
def test_a_remainder_has_the_bits_of_a_block(name: str, dtype: Any, blocks: int) -> None:
    """Alone and after a whole block, where both are computed by the same sums; those for the weights run in an order of
    their own."""
    samples = blocks * lanes(dtype) + 3
    apart, formulas, called = passes(name, dtype, samples, taken=True)
    together, _, before = passes(name, dtype, samples, taken=False)
    if name not in OTHER_SUMS:
        assert_array_equal(apart.out, together.out)
        assert_array_equal(apart.dx, together.dx)
    found = errors(apart, formulas)
    assert max(found.values()) < TOLERANCE[dtype], found
    assert "contract_remainder_weights" in called and "remainder" not in " ".join(before)
    assert "contract_remainder" in called


@pytest.mark.usefixtures("few_tiles")
@pytest.mark.parametrize("name", ["direct", "winograd"])
def test_lanes_without_a_sample_hold_zeros(name: str) -> None:
    """Other kernels sum over them."""
    layers, shape = NETWORKS[name]
    with remainders(taken=True):
        stack = Stack(layers[:1], shape, np.float64, batch_size=3)
    assert stack.bound.dx is not None
    for buffer in (stack.bound.out, stack.bound.dx):
        buffer.view.vectors[:] = np.nan
    stack.run(*stack.random(3))
    assert not stack.bound.dx.read(8)[3:].any()
    assert not stack.bound.out.read(8)[3:].any()


@DTYPES
def test_samples_that_stay_apart_have_the_same_bits(dtype: Any) -> None:
    """From where they come in to where they go out of a prediction; in training they are put back into lanes."""
    layers, shape = NETWORKS["dense"]
    with remainders(taken=True):
        stack = Stack(layers, shape, dtype, batch_size=3)
        bound = stack.network.bind(3, training=False)
        prediction = Prediction(stack.network, dtype, Scaling(np.zeros(1), np.ones(1)), 3)
    assert not any(site.x.apart or site.out.apart for site in stack.bound.sites)
    assert all(site.x.apart and site.out.apart for site in bound.sites)
    assert not any(call.kernel is samples_apart for call in bound.forward)
    x, _ = stack.random(3)
    assert_array_equal(prediction.run(x), stack.forward(x))
    assert_array_equal(prediction.run(x[1:]), stack.forward(x)[1:])


@DTYPES
def test_dense_layers_between_others_turn_samples_out_of_lanes_and_into_them(dtype: Any) -> None:
    """Before it a layer that knows lanes alone, and after it."""
    layers = [Tanh(), Dense(units=40), Dense(units=21), Softmax(), Dense(units=3)]
    with remainders(taken=True):
        network = Network(layers, (7,), np.dtype(dtype), 0)
        prediction = Prediction(network, dtype, Scaling(np.zeros(1), np.ones(1)), 5)
        sites = network.bind(5, training=False).sites
    assert [site.x.apart for site in sites] == [False, False, True, False, False] and sites[-1].out.apart
    x = np.random.default_rng(0).standard_normal((5, 7)).astype(dtype)
    expected = forward(layers, network.layout.unpack(network.weights), x)[0][-1]
    assert_allclose(prediction.run(x), expected, rtol=1e-5 if dtype is np.float32 else 1e-13)


def test_more_samples_than_registers_come_in_turns() -> None:
    """Seven, by tiles of all and of one."""
    layers, shape = NETWORKS["dense"]
    network = Network(layers, shape, np.dtype(np.float32), 0)
    x = np.random.default_rng(0).standard_normal((7, *shape)).astype(np.float32)
    found = []
    for registers, rows in ((32, 7), (8, 1)):
        with pytest.MonkeyPatch.context() as patch, remainders(taken=True):
            patch.setattr(machine, "vector_registers", lambda registers=registers: registers)
            prediction = Prediction(network, np.float32, Scaling(np.zeros(1), np.ones(1)), 7)
        tiles = [call.arguments[0] for call in prediction.program.calls if call.kernel is contract_samples]
        assert [tile.rows for tile in tiles] == [rows] * 3
        found.append(prediction.run(x).tobytes())
    assert found[0] == found[1]


@given(samples=st.integers(1, 15), groups=st.integers(1, 40), inputs=st.integers(1, 60))
def test_chosen_tiles_of_samples_fit(samples: int, groups: int, inputs: int) -> None:
    for registers in (4, 8, 32):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine, "vector_registers", lambda registers=registers: registers)
            tile = choose_samples_tile(samples, groups, inputs, 16, 99)
        assert samples % tile.rows == 0 and tile.columns <= groups and inputs % tile.run == 0
        assert tile.rows * tile.columns <= max(registers, 8) - 2


@DTYPES
@pytest.mark.parametrize("data_type", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 19), (2, 29, 43)], ids=str)
@pytest.mark.parametrize("zeros", [(0, 0, 0, 0, 0), (0, 0, 0, 0, 1), (1, 0, 2, 1, 1)], ids=str)
@pytest.mark.parametrize("per_column", [False, True])
def test_batches_that_are_apart(
    dtype: Any, data_type: Any, shape: tuple[int, ...], zeros: tuple[int, ...], per_column: bool
) -> None:
    """In an order of their own, scaled as in lanes; a smaller one leaves the others alone, and zeros stay."""
    rng = np.random.default_rng(1)
    entries = int(np.prod(shape)) if per_column else 1
    data = (100 * rng.random((9, *shape))).astype(data_type)
    shift, factor = rng.standard_normal(entries), rng.uniform(0.5, 2, entries)
    feed = Feed(Split(data, None, rng.permutation(9)))
    to = Buffer.allocate_apart(3, shape, dtype, Border(*zeros))
    program = Program([feed.inputs(Scaling(shift, factor), to)])
    scaled = (data.astype(dtype).reshape(9, -1) - shift.astype(dtype)) * factor.astype(dtype)
    for first, count in ((4, 3), (0, 2)):
        before = to.read(3)
        feed.select(first, count)
        program.run()
        assert_array_equal(to.read(count), scaled[feed.order[first : first + count]].reshape(-1, *shape))
        assert_array_equal(to.read(3)[count:], before[count:])
        assert np.count_nonzero(to.view.vectors) == np.count_nonzero(to.read(3))


@kernel
def run_corner(task, tile, x, out):
    """Of two rows and three columns, from the third row on."""
    tile_store_corner(tile_across(x, 0, 1), out, 1, 20, 2, 4, 3)


@DTYPES
def test_the_corner_of_a_tile(dtype: Any) -> None:
    width = lanes(dtype)
    x = np.random.default_rng(0).standard_normal((width, width)).astype(dtype)
    out = np.full(80, np.nan, dtype)
    Program([Call(run_corner, 1, (TileShape(1, 1), x, out), 1)]).run()
    expected = np.full(80, np.nan, dtype)
    expected[41:44], expected[61:64] = x[:3, 2], x[:3, 3]
    assert_array_equal(out, expected)


@kernel
def run_across(task, tile, x, out):
    """Lane 2 of every third vector from the second on."""
    store(out, 0, lanes_across(tile, x, 1, 2, 3))


@DTYPES
def test_lanes_of_samples(dtype: Any) -> None:
    x = np.random.default_rng(0).standard_normal((9, lanes(dtype))).astype(dtype)
    out = np.ones((1, lanes(dtype)), dtype)
    for samples in (1, 2, 3):
        Program([Call(run_across, 1, (TileShape(1, 1, samples=samples), x, out), 1)]).run()
        assert_array_equal(out[0], [*x[1 : 1 + 3 * samples : 3, 2], *np.zeros(lanes(dtype) - samples)])


@kernel
def run_out_of_lanes(task, tile, x, out):
    """Every third vector from the second on, turned into lanes."""
    tile_store(tile_of_lanes(tile, x, 1, 3), out, 0, 1, 0, 0)


@DTYPES
def test_samples_turned_into_lanes(dtype: Any) -> None:
    width = lanes(dtype)
    x = np.random.default_rng(0).standard_normal((3 * width, width)).astype(dtype)
    for samples in (1, 3, width - 1):
        out = np.full((width, width), np.nan, dtype)
        Program([Call(run_out_of_lanes, 1, (TileShape(1, 1, samples=samples), x, out), 1)]).run()
        expected = np.zeros((width, width), dtype)
        expected[:, :samples] = x[1 : 1 + 3 * samples : 3].T
        assert_array_equal(out, expected)


@DTYPES
@pytest.mark.parametrize("vectors", [5, 16, APART_VECTORS + 3, 2 * APART_VECTORS, 2 * APART_VECTORS + 9])
def test_samples_apart(dtype: Any, vectors: int) -> None:
    """Fewer vectors than lanes, as many and more, in one task and in two."""
    x = np.random.default_rng(0).standard_normal((vectors, lanes(dtype))).astype(dtype)
    out = np.full((3, len(x)), np.nan, dtype)
    Program([Call(samples_apart, apart_tasks(vectors), (TileShape(1, 1, samples=3), x, out), 1)]).run()
    assert_array_equal(out, x[:, :3].T)


@DTYPES
def test_rows_of_samples(dtype: Any) -> None:
    """Three groups in panels of two, of which the second begins within the first; rows end within the last group."""
    width = lanes(dtype)
    rows, lines, columns = 2 * width + 3, 2, 3
    d = np.random.default_rng(0).standard_normal((rows, lines, columns, width)).astype(dtype)
    tile = TileShape(4, 2, samples=2)
    out = np.full((2, lines, columns, 2, 2, width), np.nan, dtype)
    view = View(d.reshape(-1, width), 0, 0, lines * columns, columns, 1)
    operands = (tile, Extent(1, rows, lines, columns), view, out.reshape(-1, width))
    Program([Call(rows_of_samples, 2 * lines, operands, 1)]).run()
    for panel, group in ((0, 0), (1, 1)):
        for c in range(2):
            there = d[(group + c) * width : (group + c + 1) * width, ..., :2]
            assert_array_equal(out[panel, :, :, :, c, : len(there)], np.moveaxis(there, 0, -1))


SIZES = st.integers(1, 130)


@given(samples=st.integers(1, 40), rows=SIZES, maps=SIZES, met=st.integers(1, 20_000), written=st.integers(1, 2_000))
def test_what_is_taken_apart_are_the_last_samples(samples: int, rows: int, maps: int, met: int, written: int) -> None:
    for width in (8, 16):
        sizes, by_3x3 = (rows, 9 * maps, met, maps * written, written), ((3, 3), (1, 1))
        winograd = form_cost(FORMS[3], rows, maps, (4, written))
        chosen = [
            *(choose_remainder(samples, width, ImagePass(*sizes, cost)) for cost in (None, winograd)),
            *(
                choose_weights_remainder(samples, width, WeightsPass(rows, maps, *by_3x3, (4, written), form))
                for form in (None, FORMS[3])
            ),
        ]
        assert set(chosen) <= {0, samples % width}


def test_few_samples_are_taken_apart_where_that_costs_less() -> None:
    """6 maps to 16 by 5x5 on 10x10; one to 6 on 28x28; from 128 maps to 128 by Winograd's algorithm."""
    images = {"lenet5": (16, 150, 15_000, 1_176, 100, None), "to the input": (1, 150, 101_400, 4_704, 784, None)}
    taken = {name: [choose_remainder(n, 16, ImagePass(*of)) for n in (1, 5, 17, 32, 42)] for name, of in images.items()}
    assert taken == {"lenet5": [1, 5, 1, 0, 10], "to the input": [0, 0, 0, 0, 0]}
    winograd = ImagePass(128, 1_152, 61_952, 10_368, 64, form_cost(FORMS[3], 128, 128, (8, 8)))
    assert [choose_remainder(n, 16, winograd) for n in (1, 5, 8, 17, 32)] == [1, 5, 0, 1, 0]
    by_5x5 = (5, 5), (1, 1)
    many, single = WeightsPass(16, 6, *by_5x5, (10, 10), None), WeightsPass(1, 32, *by_5x5, (21, 21), None)
    assert [choose_weights_remainder(n, 16, many) for n in (1, 18, 25)] == [1, 2, 0]
    assert [choose_weights_remainder(n, 16, single) for n in (1, 17)] == [0, 0]


@given(
    rows=SIZES,
    used=st.lists(st.tuples(st.integers(0, 3), st.integers(3, 5)), min_size=1, max_size=40),
    maps=st.integers(1, 20),
)
def test_chosen_tiles_fit(rows: int, used: list[tuple[int, int]], maps: int) -> None:
    for registers in (4, 8, 32):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine, "vector_registers", lambda registers=registers: registers)
            tile = choose_remainder_tile.__wrapped__(rows, 16, 5 * maps, 5, 2, tuple(used))
        assert tile.rows <= len(used) and tile.columns <= -(-rows // 16) and 5 % tile.run == 0
        assert (tile.row_step, tile.tap_step, tile.run_step) == (2, 1, tile.columns)
        assert tile.rows * tile.columns <= max(registers, 8) - 2
        assert tile.output_rows == 16 * tile.columns and replace(tile, lanes=0).output_rows == tile.rows
        last = last_remainder_tile(tile, len(used))
        assert (last.rows if last else 0) == len(used) % tile.rows
        assert last is None or replace(last, rows=tile.rows) == tile
