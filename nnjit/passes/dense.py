"""The kernel calls of a dense layer.

Three contractions: over inputs forwards, over outputs to the input, over samples to the weights. Weights are stored as
(F / L, D, L), outputs innermost. The same order serves all three: as scalars of a tile of outputs, as scalars of a tile
of inputs, and as whole vectors that the gradient of the weights fills.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.buffers import Buffer
from nnjit.kernels.activations import Epilogue
from nnjit.kernels.contraction import View, first_rows
from nnjit.kernels.contraction_samples import contract_samples, samples_vectors
from nnjit.kernels.contraction_strips import Scalars, contract_strips, strip_tasks, strip_vectors
from nnjit.kernels.contraction_strips_weights import contract_strips_weights, strip_weights_vectors
from nnjit.kernels.program import PARALLEL_WORK, Call
from nnjit.kernels.tiles import TileShape
from nnjit.parameters import aligned_zeros
from nnjit.site import Site, apart_call
from nnjit.tuning.contraction_samples import choose_samples_tile
from nnjit.tuning.contraction_strips import choose_strip, choose_strips_tile
from nnjit.tuning.lines import last_tile


@dataclass(frozen=True)
class DensePasses:
    """The passes of a layer from D inputs to F outputs."""

    inputs: int
    outputs: int

    def bind(self, site: Site) -> None:
        """Record the calls of the passes that the site is for."""
        if site.x.apart or site.out.apart:
            self._bind_apart(site)
            return
        self._bind_forward(site)
        if site.dout is not None:
            self._bind_weights(site, site.dout)
        if site.dout is not None and site.dx is not None:
            self._bind_input(site, site.dout, site.dx)

    def _bind_forward(self, site: Site) -> None:
        """A tile's rows divide a group of L outputs; the last one may run into the padding, whose weights are 0."""
        lanes = site.lanes
        tile = choose_strips_tile(self.outputs, site.x.blocks, run=self.inputs, group_rows=lanes)
        tile = replace(tile, tap_step=lanes)
        rows = np.arange(0, self.outputs, tile.rows, dtype=np.int64)
        firsts = rows // lanes * self.inputs * lanes + rows % lanes
        scalars = Scalars(site.parameters["weight"], firsts, np.arange(self.inputs, dtype=np.int64) * lanes)
        ends = (self._bias(site), site.out, site.epilogue, site.out)
        site.forward.append(self._contraction(site, tile, len(rows) * tile.rows, scalars, site.x, ends))

    def _bind_apart(self, site: Site) -> None:
        """The forward pass where samples are apart, before it or after it."""
        x = site.x.view
        if not site.x.apart:
            taking, x = apart_call(site, x, site.batch_size)
            site.forward.append(taking)
        groups = -(-self.outputs // site.lanes)
        tile = choose_samples_tile(site.batch_size, groups, self.inputs, site.lanes, x.vectors.shape[1])
        tile = replace(tile, apart=site.out.apart)
        weight = site.parameters["weight"].reshape(-1, site.lanes)
        scratch = site.workspace.by_thread(samples_vectors(tile))
        operands = (tile, self.outputs, weight, x, self._bias(site), site.out.view, site.epilogue, scratch)
        site.forward.append(Call(contract_samples, -(-groups // tile.columns), operands, self._work(site)))

    def _bind_weights(self, site: Site, dout: Buffer) -> None:
        lanes, batch = site.lanes, site.batch_size
        groups = -(-self.outputs // lanes)
        tile = choose_strips_tile(self.inputs, groups, run=gcd(batch, lanes))
        tile = replace(tile, row_step=lanes, tap_step=1, column_step=1, run_step=tile.columns)
        last = last_tile(tile, groups)
        last = replace(last, run_step=last.columns) if last else None
        # By lines: so a thread computes the gradients of the weights that it updates, and goes forwards with.
        work = self._work(site)
        strip = choose_strip(tile, self.inputs, groups, shared=work >= PARALLEL_WORK, by_lines=True)
        samples, x = np.arange(batch, dtype=np.int64), site.x.view
        places = (x.start + samples // lanes * x.block) * lanes + samples % lanes
        scalars = Scalars(x.vectors.reshape(-1), first_rows(self.inputs, tile.rows) * lanes, places)
        gradient = View(site.gradients["weight"].reshape(-1, lanes), 0, 0, 1, 0, self.inputs)
        sums = site.gradients.get("bias", aligned_zeros((0,), site.dtype))
        zeros = aligned_zeros((self.inputs,), site.dtype)
        scratch = site.workspace.by_thread(strip_weights_vectors(tile, strip, groups))
        factors = (self.inputs, groups, batch, scalars, dout.view)
        operands = (tile, last, strip, *factors, zeros, gradient, Epilogue(), sums, scratch)
        tasks = strip_tasks(tile, strip, self.inputs)
        site.backward_parameters.append(Call(contract_strips_weights, tasks, operands, work))

    def _bind_input(self, site: Site, dout: Buffer, dx: Buffer) -> None:
        lanes = site.lanes
        tile = choose_strips_tile(self.inputs, site.x.blocks, run=gcd(self.outputs, lanes))
        tile = replace(tile, row_step=lanes, tap_step=1)
        outputs = np.arange(self.outputs, dtype=np.int64)
        places = outputs // lanes * self.inputs * lanes + outputs % lanes
        scalars = Scalars(site.parameters["weight"], first_rows(self.inputs, tile.rows) * lanes, places)
        ends = (aligned_zeros((self.inputs,), site.dtype), dx, site.dx_epilogue, site.x)
        site.backward_input.append(self._contraction(site, tile, self.inputs, scalars, dout, ends))

    def _contraction(
        self,
        site: Site,
        tile: TileShape,
        rows: int,
        scalars: Scalars,
        x: Buffer,
        ends: tuple[NDArray[Any], Buffer, Epilogue, Buffer],
    ) -> Call:
        """The call of `contract_strips`, over all of x; `ends`: its bias, out, epilogue and y."""
        bias, out, epilogue, y = ends
        tile, work = replace(tile, result_fetches=True), self._work(site)
        # What nothing updates, each core may have for itself: samples stay where they are from layer to layer (mlp's
        # predictions for 256 samples 1.04 times as fast).
        strip = choose_strip(tile, rows, x.blocks, shared=work >= PARALLEL_WORK, by_lines=site.fixed or None)
        scratch = site.workspace.by_thread(strip_vectors(tile, strip, x.blocks))
        sizes = rows, x.blocks, len(scalars.taps)
        x_view, out_view, y_view = (buffer.blocks_as_columns() for buffer in (x, out, y))
        operands = (tile, last_tile(tile, x.blocks), strip, *sizes, scalars, x_view, bias, out_view, epilogue, y_view)
        return Call(contract_strips, strip_tasks(tile, strip, rows), (*operands, scratch), work)

    def _bias(self, site: Site) -> NDArray[Any]:
        """(F padded to whole vectors,)."""
        padded = -(-self.outputs // site.lanes) * site.lanes
        return site.parameters.get("bias", aligned_zeros((padded,), site.dtype))

    def _work(self, site: Site) -> int:
        """Of a pass."""
        return site.batch_size * self.inputs * self.outputs
