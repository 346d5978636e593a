"""Compiled kernels on arrays: no Python objects, no shapes decided here.

The layout, once for the whole program. Samples are SIMD lanes: a batch is cut into blocks of L samples, and the sample
is the last and contiguous axis of every activation,

    images (blocks, channels, height, width, L)        vectors (blocks, features, L)

with L = 16 in float32 and 8 in float64 (64 bytes) on every CPU. Sample s is lane s % L of block s // L. Lanes without a
sample carry zeros at the input, and the loss gives them a zero gradient. So a kernel is the formula for one sample with
vectors in the place of numbers, and odd channel counts, strides or image sizes cost no lanes.

A kernel is a plain function of a task number and of its operands: task t writes what no other task of the same call
writes (or writes the same bits), so tasks run in any order on any number of threads with one result. Kernels are
compiled without `fastmath`; products are added by explicit fused multiply-adds in an order that neither the number of
threads nor the CPU changes. `program.py` runs lists of such calls.
"""
