"""Losses: the cost of each sample and the gradient of the batch's mean cost, in one pass.

`count` (1,) int64 is the number of samples in the batch; lanes from there on get a cost and a gradient of zero, so that
nothing downstream needs to know that they are empty. Gradients are divided by `count`. Targets have the shape of the
output; a class label is a one-hot target.
"""

from __future__ import annotations

from nnjit.kernels.compiler import kernel
from nnjit.kernels.lane_math import exp, log1p, log_positive, sigmoid
from nnjit.kernels.simd import absolute, first_lanes, fma, full, load, maximum, store, where


@kernel
def squared_error(task, extent, out, target, dout, costs, count, factor):
    """cost[n] = factor / 2 * sum over f of (out[n, f] - target[n, f])**2,  dout = factor * (out - target) / count

    out, target, dout View (N, C, I, J), dout fully overwritten  costs (N, L), overwritten  count (1,)  factor (1,)
    A task owns a block. Source: Nielsen, Neural Networks and Deep Learning, chapter 1, equation 6.
    """
    zero = full(out.vectors, 0.0)
    used = first_lanes(zero, count[0] - task * costs.shape[1])
    scale = full(zero, factor[0]) / count[0]
    total = zero
    for c in range(extent.rows):
        for i in range(extent.lines):
            for j in range(extent.columns):
                at = out.start + task * out.block + c * out.row + i * out.line + j * out.column
                t = target.start + task * target.block + c * target.row + i * target.line + j * target.column
                d = dout.start + task * dout.block + c * dout.row + i * dout.line + j * dout.column
                difference = load(out.vectors, at) - load(target.vectors, t)
                total = fma(difference, difference, total)
                store(dout.vectors, d, where(used, difference * scale, zero))
    store(costs, task, where(used, total * (factor[0] * 0.5), zero))


@kernel
def softmax_cross_entropy(task, extent, out, target, dout, costs, count):
    """cost[n] = -sum over f of target[n, f] * log p[n, f],  p = softmax(out),  dout = (p * sum of target - target) /
    count

    out, target, dout View (N, F), dout fully overwritten  costs (N, L), overwritten  count (1,)
    log p is out - m - log(sum of exp(out - m)) with m the largest, which neither overflows nor takes the log of 0.
    A task owns a block. Source: Bishop, Pattern Recognition and Machine Learning, 2006, equations 4.107 to 4.109.
    """
    out_first = out.start + task * out.block
    target_first = target.start + task * target.block
    dout_first = dout.start + task * dout.block
    zero = full(out.vectors, 0.0)
    used = first_lanes(zero, count[0] - task * costs.shape[1])
    top = load(out.vectors, out_first)
    for f in range(1, extent.rows):
        top = maximum(load(out.vectors, out_first + f * out.row), top)
    total = zero
    weight = zero
    score = zero
    for f in range(extent.rows):
        shifted = load(out.vectors, out_first + f * out.row) - top
        t = load(target.vectors, target_first + f * target.row)
        power = exp(shifted)
        total = total + power
        weight = weight + t
        score = fma(t, shifted, score)
        store(dout.vectors, dout_first + f * dout.row, power)
    store(costs, task, where(used, weight * log_positive(total) - score, zero))
    scale = weight / total
    for f in range(extent.rows):
        at = dout_first + f * dout.row
        t = load(target.vectors, target_first + f * target.row)
        d = (load(dout.vectors, at) * scale - t) / count[0]
        store(dout.vectors, at, where(used, d, zero))


@kernel
def binary_cross_entropy(task, extent, out, target, dout, costs, count):
    """cost[n] = -sum over f of t*log(s) + (1-t)*log(1-s),  s = sigmoid(out),  dout = (s - target) / count

    out, target, dout View (N, C, I, J), dout fully overwritten  costs (N, L), overwritten  count (1,)
    Each term is max(z, 0) - z*t + log(1 + exp(-|z|)), which cannot overflow. A task owns a block.
    Source: Nielsen, Neural Networks and Deep Learning, chapter 3, equation 57.
    """
    zero = full(out.vectors, 0.0)
    used = first_lanes(zero, count[0] - task * costs.shape[1])
    total = zero
    for c in range(extent.rows):
        for i in range(extent.lines):
            for j in range(extent.columns):
                at = out.start + task * out.block + c * out.row + i * out.line + j * out.column
                t_at = target.start + task * target.block + c * target.row + i * target.line + j * target.column
                d_at = dout.start + task * dout.block + c * dout.row + i * dout.line + j * dout.column
                z = load(out.vectors, at)
                t = load(target.vectors, t_at)
                total = total + (maximum(zero, z) - z * t + log1p(exp(0.0 - absolute(z))))
                store(dout.vectors, d_at, where(used, (sigmoid(z) - t) / count[0], zero))
    store(costs, task, where(used, total, zero))


@kernel
def count_hits(task, extent, out, target, hits, count, threshold):
    """hits[n] = 1 where the largest entry of out[n] is the largest of target[n] (the first on a tie), else 0

    out, target View (N, F)  hits (N, L), overwritten  count (1,)
    With one output it is a hit when out > threshold just where target > 0.5. A task owns a block.
    """
    out_first = out.start + task * out.block
    target_first = target.start + task * target.block
    best = load(out.vectors, out_first)
    truth = load(target.vectors, target_first)
    best_at = full(best, 0.0)
    truth_at = best_at
    for f in range(1, extent.rows):
        value = load(out.vectors, out_first + f * out.row)
        best_at = where(value > best, full(best, f), best_at)
        best = where(value > best, value, best)
        value = load(target.vectors, target_first + f * target.row)
        truth_at = where(value > truth, full(best, f), truth_at)
        truth = where(value > truth, value, truth)
    if extent.rows == 1:
        best_at = where(best > threshold, full(best, 1.0), full(best, 0.0))
        truth_at = where(truth > 0.5, full(best, 1.0), full(best, 0.0))
    used = first_lanes(best, count[0] - task * hits.shape[1])
    hit = where(best_at == truth_at, full(best, 1.0), full(best, 0.0))
    store(hits, task, where(used, hit, full(best, 0.0)))


@kernel
def mean_squares(task, extent, out, target, scores, count):
    """scores[n] = mean over f of (out[n, f] - target[n, f])**2

    out, target View (N, C, I, J)  scores (N, L), overwritten  count (1,)
    A task owns a block.
    """
    zero = full(out.vectors, 0.0)
    total = zero
    for c in range(extent.rows):
        for i in range(extent.lines):
            for j in range(extent.columns):
                at = out.start + task * out.block + c * out.row + i * out.line + j * out.column
                t = target.start + task * target.block + c * target.row + i * target.line + j * target.column
                difference = load(out.vectors, at) - load(target.vectors, t)
                total = fma(difference, difference, total)
    used = first_lanes(zero, count[0] - task * scores.shape[1])
    store(scores, task, where(used, total / (extent.rows * extent.lines * extent.columns), zero))


@kernel
def add_up(task, costs, scores, count, totals):
    """totals = (+ sum of costs, + sum of scores, + samples, sum of costs), in float64 and in the order of the samples

    costs, scores (N, L)  count (1,)  totals (4,) float64. One task.
    """
    cost = 0.0
    score = 0.0
    for block in range(costs.shape[0]):
        for lane in range(costs.shape[1]):
            cost += float(costs[block, lane])
            score += float(scores[block, lane])
    totals[0] += cost
    totals[1] += score
    totals[2] += count[0]
    totals[3] = cost
