"""Compiled kernels on arrays: no Python objects, no shapes decided here.

The layout, once for the whole program. Samples are SIMD lanes: a batch is cut into blocks of L samples, and the sample
is the last and contiguous axis of every activation,

    images (blocks, channels, height, width, L)        vectors (blocks, features, L)

with L = 16 in float32 and 8 in float64 (64 bytes) on every CPU. Sample s is lane s % L of block s // L. Lanes without a
sample carry zeros at the input, and the loss gives them a zero gradient. So a kernel is the formula for one sample with
vectors in the place of numbers, and odd channel counts, strides or image sizes cost no lanes.

Samples that do not fill a block would leave lanes idle. Where a block of them costs more, their images have channels in
the lanes instead, from the first layer to the last one that takes them so,

    images (samples, channels / L, height, width, L)

where the last L channels may lack some. Elementwise kernels and pooling are the same for both, with samples for blocks;
convolutions multiply L weights by the number of a channel, which lies where it would in the network's input. That, and
what dense layers predict for few samples, has samples apart:

    images (samples, channels, height, width)           vectors (samples, features)

The last samples of a larger batch, which have a block to themselves, are taken apart only for the sums of a
convolution, and put back into lanes afterwards. They get the bits of a block where that is computed by the same sums.

A kernel is a plain function of a task number and of its operands: task t writes what no other task of the same call
writes (or writes the same bits), so tasks run in any order on any number of threads with one result. A kernel that
would take memory of its own does not compile. Kernels are compiled without `fastmath`; products are added by explicit
fused multiply-adds in an order that neither the number of threads nor the CPU changes. (Products with the zeros round
an image may be left out or not, which finite numbers do not show; once a run has diverged, where the first NaN stands
may depend on the CPU.) `program.py` runs lists of such calls.

The words here, and what they are elsewhere: rows are output channels or features, the M of a matrix product; columns
are positions of a line, or blocks, its N; taps are what an output sums over, its K. A tile is a register-blocked
micro-kernel of rows x columns vectors, a run some taps of it without a loop. A strip is a block of M, a piece a block
of K, a part a slice of K that is summed apart (split-K). A phase is a residue class of positions modulo the stride.
Packed is what was copied into the order in which tiles read it.
"""
