"""No choice changes a bit: of tiles, cuts, tasks, phases and maps, by the CPU or the threads."""

from __future__ import annotations

from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
from battery import Stack, channels, compiled_only, remainders, winograd_of_channels
from numpy.typing import NDArray

from nnjit.kernels.contraction import contract, contract_pooled
from nnjit.kernels.contraction_bands import contract_bands
from nnjit.kernels.contraction_packed import contract_packed
from nnjit.kernels.contraction_transposed import contract_transposed
from nnjit.kernels.contraction_weights import Cut, contract_lanes
from nnjit.layers import Layer
from nnjit.layers.activations import Relu, Tanh
from nnjit.layers.conv2d import Conv2d
from nnjit.layers.dense import Dense
from nnjit.layers.flatten import Flatten
from nnjit.layers.pooling import MaxPool
from nnjit.network import Network
from nnjit.passes import convolution, dense, direct, weight_gradients
from nnjit.passes.convolution import Convolution
from nnjit.tuning import contraction_bands, machine
from nnjit.tuning import winograd as tuning_winograd
from nnjit.tuning.contraction import choose_tile
from nnjit.tuning.contraction_bands import choose_band
from nnjit.tuning.contraction_packed import choose_packed_tile
from nnjit.tuning.contraction_strips import choose_strips_tile
from nnjit.tuning.contraction_transposed import choose_transposed_tile
from nnjit.tuning.contraction_weights import choose_lanes_tile
from nnjit.tuning.winograd import choose_channels_tile

Array = NDArray[Any]


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("algorithm", ["auto", "direct"])
def test_no_cpu_cuts_a_sum_differently(kernel: int, algorithm: Literal["auto", "direct"]) -> None:
    """The parts and pieces of a sum belong to its order; padding, which tiles decide about, does not count."""
    for filters, maps in [(16, 128), (32, 64), (64, 32), (128, 16), (272, 202), (33, 50)]:
        found = set()
        for registers in (4, 8, 32):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(machine, "vector_registers", lambda registers=registers: registers)
                patch.setattr(weight_gradients, "choose_transposed_tile", choose_transposed_tile.__wrapped__)
                patch.setattr(weight_gradients, "choose_lanes_tile", choose_lanes_tile.__wrapped__)
                layer = Conv2d(filters=filters, kernel=(kernel, kernel), algorithm=algorithm)
                network = Network([layer], (maps, 12, 12), np.dtype(np.float32), 0)
                calls = network.bind(32).sites[0].backward_parameters
            found |= {argument for call in calls for argument in call.arguments if isinstance(argument, Cut)}
        assert len({(cut.parts, cut.lines) for cut in found}) == 1


@compiled_only("it is about compiled tiles")
@pytest.mark.parametrize("stride", [1, 2])
def test_the_tiles_of_every_cpu_give_a_network_the_same_bits(stride: int) -> None:
    """Whole and half vectors, runs of taps, maps and features, joined lines, maps in the lanes: 3x3, then 1x1, then
    2x2 with a stride of 2, then dense."""
    layers = [
        Conv2d(filters=6, kernel=(3, 3), stride=(stride, stride), padding="same"),
        Relu(),
        Conv2d(filters=8, kernel=(1, 1)),
        Tanh(),
        Conv2d(filters=16, kernel=(2, 2), stride=(2, 2)),
        Flatten(),
        Dense(units=6),
    ]
    found, turned = [], set()
    for registers in (4, 8, 32):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine, "vector_registers", lambda registers=registers: registers)
            patch.setattr(dense, "choose_strips_tile", choose_strips_tile.__wrapped__)
            patch.setattr(direct, "choose_tile", choose_tile.__wrapped__)
            patch.setattr(weight_gradients, "choose_lanes_tile", choose_lanes_tile.__wrapped__)
            patch.setattr(weight_gradients, "choose_transposed_tile", choose_transposed_tile.__wrapped__)
            stack = Stack(layers, (5, 9, 8), np.dtype(np.float32))
        calls = (*stack.bound.forward, *stack.bound.backward)
        assert any(call.kernel is contract and call.arguments[0].halved for call in calls) == (registers == 8)
        tiles = [call.arguments[0] for call in stack.bound.backward if call.kernel is contract_lanes]
        assert [tile.halved for tile in tiles] == [registers < 32] * 2
        transposing = [call.arguments[0] for call in stack.bound.backward if call.kernel is contract_transposed]
        assert len(transposing) == 1
        turned |= {transposing[0]}
        found.append(stack.run(*stack.random()).bits())
    assert found[0] == found[1] == found[2]
    assert len(turned) >= 2


@compiled_only("it is about compiled tiles")
@pytest.mark.parametrize("activation", [Relu(), Tanh()])
def test_positions_that_are_packed_give_the_same_bits(activation: Layer) -> None:
    """1x1 over a whole image and between zeros, then 2x2 with a stride of 2; with `contract` by tiles of halves, which
    leave the derivative to a second pass."""
    layers = [
        Conv2d(filters=65, kernel=(1, 1)),
        activation,
        Conv2d(filters=72, kernel=(1, 1), padding=(1, 1)),
        activation,
        Conv2d(filters=64, kernel=(2, 2), stride=(2, 2)),
    ]
    found = []
    for registers in (8, 32):
        with pytest.MonkeyPatch.context() as patch, remainders(taken=False):
            patch.setattr(machine, "vector_registers", lambda registers=registers: registers)
            patch.setattr(machine, "of_amd", lambda: False)
            patch.setattr(direct, "choose_packed_tile", choose_packed_tile.__wrapped__)
            patch.setattr(direct, "choose_tile", choose_tile.__wrapped__)
            stack = Stack(layers, (64, 6, 10), np.dtype(np.float32))
        packed = [call.kernel is contract_packed for call in (*stack.bound.forward, *stack.bound.backward)]
        assert packed.count(True) == (0 if registers == 8 else 6)
        found.append(stack.run(*stack.random()).bits())
    assert found[0] == found[1]


@compiled_only("it is about compiled tiles")
@pytest.mark.parametrize("kernel", [(3, 3), (4, 2)])
def test_maps_in_pieces_give_the_same_bits_on_every_cpu_and_with_any_threads(kernel: tuple[int, int]) -> None:
    layers = [Conv2d(filters=3, kernel=kernel, padding="same"), Relu()]
    found, tiles = [], set()
    for registers, threads, size in ((4, 1, 8), (8, 2, 3), (32, 1, 20), (32, 30, 8)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine, "vector_registers", lambda registers=registers: registers)
            patch.setattr(machine, "get_threads", lambda threads=threads: threads)
            patch.setattr(contraction_bands, "PIECE_MAPS", size)
            patch.setattr(direct, "choose_band", choose_band.__wrapped__)
            stack = Stack(layers, (180, 9, 7), np.dtype(np.float32))
        (call,) = [call for call in stack.bound.forward if call.kernel is contract_bands]
        tiles.add((*call.arguments[:3], call.tasks))
        found.append(stack.run(*stack.random()).bits())
    assert len(tiles) == 4
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_phases_over_few_blocks_and_over_all_give_the_same_bits(padding: Literal["valid", "same"]) -> None:
    layer = Conv2d(filters=3, kernel=(3, 3), stride=(2, 2), padding=padding)
    found = []
    for blocks in (1, 2, 9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(convolution, "choose_blocks", lambda block_vectors, blocks=blocks: blocks)
            stack = Stack([layer], (2, 7, 6), np.dtype(np.float64), batch_size=21)
        calls = [call for call in stack.bound.backward if call.kernel is contract]
        assert len(calls) == 4 * -(-3 // blocks)
        found.append(stack.run(*stack.random(21)).bits())
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("kernel", "stride", "side", "padding", "expected"),
    [
        (2, 2, 8, 0, [4]),
        (4, 2, 8, 0, [4]),
        (3, 3, 9, 1, [1, 2, 2, 4]),  # the last phase reads one position on
        (2, 3, 9, 0, [4]),  # no tap reaches the others
        (2, 2, 9, 0, [1, 1, 1, 1]),  # the first phase has a position more
        (3, 2, 8, 1, [1, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("activation", [Relu(), Tanh()])
def test_phases_that_read_the_same_are_computed_together_with_the_same_bits(
    kernel: int, stride: int, side: int, padding: int, expected: list[int], activation: Layer
) -> None:
    strided = Conv2d(filters=5, kernel=(kernel, kernel), stride=(stride, stride), padding=(padding, padding))
    layers = [Conv2d(filters=3, kernel=(1, 1)), activation, strided]
    found = []
    for together in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(direct, "choose_packed_tile", lambda *sizes: None)
            if not together:
                patch.setattr(Convolution, "_alike_phases", _each_phase_alone)
            stack = Stack(layers, (2, side, side), np.dtype(np.float64), batch_size=9)
        calls = [call for call in stack.bound.sites[-1].backward_input if call.kernel is contract]
        phases = sorted(len(call.arguments[4]) for call in calls)
        assert phases == (expected if together else [1] * stride**2)
        found.append(stack.run(*stack.random(9)).bits())
    assert found[0] == found[1]


def _each_phase_alone(layer: Convolution) -> tuple[list[Any], bool]:
    return [[pair] for pair in product(layer._phases(0), layer._phases(1))], False


@pytest.mark.parametrize("pooled", [False, True])
def test_any_number_of_tasks_gives_the_same_bits(pooled: bool) -> None:
    """Tasks that end within a line, a block or a phase; of some blocks, and of one tile each."""
    layers: list[Layer] = [Conv2d(filters=26, kernel=(4, 4), stride=(1, 1) if pooled else (2, 2))]
    layers += [MaxPool(window=(2, 2))] if pooled else []
    found, numbers = [], []
    for tasks in (1, 7, 10_000):
        with pytest.MonkeyPatch.context() as patch, remainders(taken=False):
            patch.setattr(direct, "choose_tasks", lambda work, tiles, tasks=tasks: min(tasks, tiles))
            patch.setattr(direct, "choose_packed_tile", lambda *sizes: None)
            patch.setattr(weight_gradients, "choose_weights_remainder", lambda *sizes: 0)
            stack = Stack(layers, (3, 11, 11), np.dtype(np.float32), batch_size=33)
        kernel = contract_pooled if pooled else contract
        calls = [call for call in (*stack.bound.forward, *stack.bound.backward) if call.kernel is kernel]
        numbers.append(max(call.tasks for call in calls))
        found.append(stack.run(*stack.random(33)).bits())
    assert numbers[:2] == [1, 7] and numbers[2] > 30
    assert found[0] == found[1] == found[2]


@compiled_only("it is about compiled tiles")
def test_winograd_with_channels_in_lanes_has_the_same_bits_on_every_cpu() -> None:
    """Phases of the image forwards, of the result to the input."""
    layers: list[Layer] = [
        Conv2d(filters=24, kernel=1),
        Relu(),
        Conv2d(filters=40, kernel=6, stride=2, padding=2),
        Tanh(),
    ]
    found, tiles = [], set()
    for registers in (4, 8, 32):
        with pytest.MonkeyPatch.context() as patch, channels(taken=True), winograd_of_channels():
            patch.setattr(machine, "vector_registers", lambda registers=registers: registers)
            patch.setattr(tuning_winograd, "choose_channels_tile", choose_channels_tile.__wrapped__)
            stack = Stack(layers, (5, 17, 20), np.dtype(np.float32), batch_size=3)
        calls = [*stack.bound.forward, *stack.bound.backward]
        tiles |= {call.arguments[1] for call in calls if call.kernel.__name__ == "winograd_channels"}
        found.append(stack.run(*stack.random(3)).bits())
    assert found[0] == found[1] == found[2] and len(tiles) > 2
