"""Two-dimensional convolution, as the field calls the correlation of an image with trainable kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnjit.reference.base import Array, Backward, layer_reference
from nnjit.reference.window import Pads, Pair, pads_of, positions

if TYPE_CHECKING:
    from nnjit.layers.conv2d import Conv2d


def _seen(u: int, v: int, stride: Pair, size: Pair) -> tuple[slice, ...]:
    """Index of the entries [n,c,i*stride+u,j*stride+v] of padded images, over all n, c, i < OH and j < OW."""
    rows = slice(u, u + size[0] * stride[0], stride[0])
    columns = slice(v, v + size[1] * stride[1], stride[1])
    return slice(None), slice(None), rows, columns


def conv2d_forward(x: Array, weight: Array, bias: Array | None, stride: Pair, pads: Pads) -> Array:
    """out[n,f,i,j] = bias[f] + sum over c,u,v of weight[f,c,u,v] * x[n,c,i*stride+u-top,j*stride+v-left]

    x (N, C, H, W), counts as 0 outside  weight (F, C, KH, KW)  bias (F,) or None  returns out (N, F, OH, OW)
    Source: Dumoulin & Visin 2016, arXiv:1603.07285, section 2.
    """
    F, _, KH, KW = weight.shape
    size = positions(x, (KH, KW), stride, pads)
    padded = np.pad(x, ((0, 0), (0, 0), *pads))
    out = np.zeros((len(x), F, *size), x.dtype)
    for u in range(KH):
        for v in range(KW):
            out += np.einsum("fc,ncij->nfij", weight[:, :, u, v], padded[_seen(u, v, stride, size)])
    return out if bias is None else out + bias[:, None, None]


def conv2d_backward(dout: Array, x: Array, weight: Array, stride: Pair, pads: Pads) -> tuple[Array, Array, Array]:
    """dweight[f,c,u,v] = sum over n,i,j of dout[n,f,i,j] * x[n,c,i*stride+u-top,j*stride+v-left]

    dx[n,c,h,w] = sum over f,u,v and those i,j with i*stride+u-top = h, j*stride+v-left = w
                  of weight[f,c,u,v] * dout[n,f,i,j]
    dbias[f] = sum over n,i,j of dout[n,f,i,j]

    dout (N, F, OH, OW)  x (N, C, H, W)  weight (F, C, KH, KW)
    returns dx (N, C, H, W), dweight (F, C, KH, KW), dbias (F,)
    Source: Goodfellow et al. 2016, Deep Learning, section 9.5, equations 9.11 and 9.13.
    """
    _, _, KH, KW = weight.shape
    _, _, H, W = x.shape
    (top, _), (left, _) = pads
    padded = np.pad(x, ((0, 0), (0, 0), *pads))
    dpadded, dweight = np.zeros_like(padded), np.zeros_like(weight)
    for u in range(KH):
        for v in range(KW):
            seen = _seen(u, v, stride, dout.shape[2:])
            dweight[:, :, u, v] = np.einsum("nfij,ncij->fc", dout, padded[seen])
            dpadded[seen] += np.einsum("fc,nfij->ncij", weight[:, :, u, v], dout)
    return dpadded[:, :, top : top + H, left : left + W], dweight, dout.sum(axis=(0, 2, 3))


@layer_reference("conv2d")
def _conv2d(layer: Conv2d, x: Array, parameters: dict[str, Array]) -> tuple[Array, Backward]:
    weight = parameters["weight"]
    bias = parameters["bias"] if layer.bias else None
    pads = pads_of(layer, x)

    def backward(dout: Array) -> tuple[Array, dict[str, Array]]:
        dx, dweight, dbias = conv2d_backward(dout, x, weight, layer.stride, pads)
        return dx, {"weight": dweight, "bias": dbias} if layer.bias else {"weight": dweight}

    return conv2d_forward(x, weight, bias, layer.stride, pads), backward
