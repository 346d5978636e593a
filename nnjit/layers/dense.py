"""Fully connected layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from nnjit.equations import Equation, Equations
from nnjit.initializers import HeNormal, Initializer, Zeros
from nnjit.layers.base import Example, Layer, Parameter, Shape, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nnjit.buffers import Buffer
    from nnjit.kernels.activations import Epilogue
    from nnjit.kernels.contraction_strips import Scalars
    from nnjit.kernels.program import Call
    from nnjit.kernels.tiles import TileShape
    from nnjit.site import Site


class Dense(Layer):
    """out[f] = bias[f] + sum over d of weight[f, d] * x[d]

    Input (D,), output (F,). Parameters: weight (F, D), bias (F,).
    """

    type: Literal["dense"] = "dense"
    shorthand = "units"

    examples = (
        Example({"units": 1}, (1,)),
        Example({"units": 3}, (5,)),
        Example({"units": 19, "bias": False}, (23,)),
        Example({"units": 2}, (129,)),
    )
    applies_activation = True
    applies_derivative = True

    units: int = Field(ge=1)
    """Number of outputs, F."""
    bias: bool = True
    """Whether a bias is added."""
    weight_init: Initializer = HeNormal()
    """How the weights start."""
    bias_init: Initializer = Zeros()
    """How the biases start."""

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ShapeError(f"expected an input of shape (D,), got {shape}; add `- flatten` before it")
        return (self.units,)

    def parameters(self, shape: Shape) -> list[Parameter]:
        (features,) = shape
        weight = Parameter("weight", (self.units, features), self.weight_init, features, self.units, True, True)
        bias = Parameter("bias", (self.units,), self.bias_init, features, self.units, False)
        return [weight, bias] if self.bias else [weight]

    def multiply_adds(self, shape: Shape) -> int:
        return self.units * shape[0]

    def takes_apart(self, shape: Shape, samples: int, lanes: int) -> int:
        from nnjit.tuning.algorithms import choose_dense_remainder

        return choose_dense_remainder(samples, lanes)

    def equations(self, shape: Shape) -> Equations:
        (features,) = shape
        bias = "bias[f] + " if self.bias else ""
        forward = (Equation(f"out[f] = {bias}sum(weight[f, d] * x[d], d={features})"),)
        backward = [
            Equation(
                f"dx[d] = sum(weight[f, d] * dout[f], f={self.units})",
                "Input $x[d]$ goes into every output, each time by another weight; the products add up.",
            ),
            Equation("dweight[f, d] = dout[f] * x[d]", "Weight $weight[f, d]$ goes into $out[f]$ alone, times $x[d]$."),
        ]
        if self.bias:
            backward.append(Equation("dbias[f] = dout[f]", "The bias goes into its output as it is."))
        return Equations(forward, tuple(backward), f"An output for each of the {self.units} units.")

    def bind(self, site: Site) -> None:
        """Three contractions: over inputs forwards, over outputs to the input, over samples to the weights.

        Weights are stored as (F / L, D, L), outputs innermost. The same order serves all three: as scalars of a tile of
        outputs, as scalars of a tile of inputs, and as whole vectors that the weight gradient fills.
        """
        from dataclasses import replace
        from math import gcd

        import numpy as np

        from nnjit.kernels.activations import Epilogue
        from nnjit.kernels.contraction import View, first_rows
        from nnjit.kernels.contraction_strips import Scalars, strip_tasks
        from nnjit.kernels.contraction_strips_weights import contract_strips_weights, strip_weights_vectors
        from nnjit.kernels.program import PARALLEL_WORK, Call
        from nnjit.parameters import aligned_zeros
        from nnjit.tuning.contraction_strips import choose_strip, choose_strips_tile
        from nnjit.tuning.lines import last_tile

        lanes, blocks, batch = site.lanes, site.x.blocks, site.batch_size
        inputs, outputs = site.x.shape[0], self.units
        work = batch * inputs * outputs
        weight = site.parameters["weight"]
        input_steps, output_steps = np.arange(inputs, dtype=np.int64), np.arange(outputs, dtype=np.int64)
        zeros = aligned_zeros((max(inputs, len(weight) // inputs),), site.dtype)
        bias = site.parameters["bias"] if self.bias else zeros

        if site.x.apart or site.out.apart:
            site.forward += _apart(site, bias, work)
            return

        # Forwards, a tile's rows divide a group of L outputs; the last one may run into the padding, whose weights are
        # 0.
        tile = replace(choose_strips_tile(outputs, blocks, run=inputs, group_rows=lanes), tap_step=lanes)
        starts = np.arange(0, outputs, tile.rows, dtype=np.int64)
        scalars = Scalars(weight, starts // lanes * inputs * lanes + starts % lanes, input_steps * lanes)
        ends = (bias, site.out, site.epilogue, site.out)
        site.forward.append(_contraction(site, tile, len(starts) * tile.rows, scalars, site.x, ends, work))
        if site.dout is None:
            return

        groups, samples = -(-outputs // lanes), np.arange(batch, dtype=np.int64)
        tile = choose_strips_tile(inputs, groups, run=gcd(batch, lanes))
        tile = replace(tile, row_step=lanes, tap_step=1, column_step=1, run_step=tile.columns)
        last = last_tile(tile, groups)
        last = replace(last, run_step=last.columns) if last else None
        strip = choose_strip(tile, inputs, groups, shared=work >= PARALLEL_WORK, by_lines=True)
        sample_steps = (site.x.view.start + samples // lanes * site.x.view.block) * lanes + samples % lanes
        scalars = Scalars(site.x.view.vectors.reshape(-1), first_rows(inputs, tile.rows) * lanes, sample_steps)
        gradient = View(site.gradients["weight"].reshape(-1, lanes), 0, 0, 1, 0, inputs)
        sums = site.gradients["bias"] if self.bias else zeros[:0]
        scratch = site.workspace.by_thread(strip_weights_vectors(tile, strip, groups))
        factors = (inputs, groups, batch, scalars, site.dout.view)
        operands = (tile, last, strip, *factors, zeros, gradient, Epilogue(), sums, scratch)
        call = Call(contract_strips_weights, strip_tasks(tile, strip, inputs), operands, work)
        site.backward_parameters.append(call)
        if site.dx is None:
            return

        tile = choose_strips_tile(inputs, blocks, run=gcd(outputs, lanes))
        tile = replace(tile, row_step=lanes, tap_step=1)
        steps = output_steps // lanes * inputs * lanes + output_steps % lanes
        scalars = Scalars(weight, first_rows(inputs, tile.rows) * lanes, steps)
        ends = (zeros, site.dx, site.dx_epilogue, site.x)
        site.backward_input.append(_contraction(site, tile, inputs, scalars, site.dout, ends, work))


def _apart(site: Site, bias: NDArray[Any], work: int) -> list[Call]:
    """The calls of the forward pass where samples are apart, before it or after it."""
    from dataclasses import replace

    from nnjit.kernels.contraction_samples import contract_samples, samples_vectors
    from nnjit.kernels.program import Call
    from nnjit.site import apart_call
    from nnjit.tuning.contraction_samples import choose_samples_tile

    calls, x = [], site.x.view
    if not site.x.apart:
        taking, x = apart_call(site, x, site.batch_size)
        calls.append(taking)
    (inputs,), (outputs,) = site.x.shape, site.out.shape
    groups = -(-outputs // site.lanes)
    tile = choose_samples_tile(site.batch_size, groups, inputs, site.lanes, x.vectors.shape[1])
    tile = replace(tile, apart=site.out.apart)
    weight = site.parameters["weight"].reshape(-1, site.lanes)
    scratch = site.workspace.by_thread(samples_vectors(tile))
    operands = (tile, outputs, weight, x, bias, site.out.view, site.epilogue, scratch)
    return [*calls, Call(contract_samples, -(-groups // tile.columns), operands, work)]


def _contraction(
    site: Site,
    tile: TileShape,
    rows: int,
    scalars: Scalars,
    x: Buffer,
    ends: tuple[NDArray[Any], Buffer, Epilogue, Buffer],
    work: int,
) -> Call:
    """The call of `contract_strips`, over all of x; `ends`: its bias, out, epilogue and y."""
    from dataclasses import replace

    from nnjit.kernels.contraction_strips import contract_strips, strip_tasks, strip_vectors
    from nnjit.kernels.program import PARALLEL_WORK, Call
    from nnjit.tuning.contraction_strips import choose_strip
    from nnjit.tuning.lines import last_tile

    bias, out, epilogue, y = ends
    tile = replace(tile, result_fetches=True)
    strip = choose_strip(tile, rows, x.blocks, shared=work >= PARALLEL_WORK)
    scratch = site.workspace.by_thread(strip_vectors(tile, strip, x.blocks))
    sizes = rows, x.blocks, len(scalars.taps)
    x_view, out_view, y_view = (buffer.blocks_as_columns() for buffer in (x, out, y))
    operands = (tile, last_tile(tile, x.blocks), strip, *sizes, scalars, x_view, bias, out_view, epilogue, y_view)
    return Call(contract_strips, strip_tasks(tile, strip, rows), (*operands, scratch), work)
