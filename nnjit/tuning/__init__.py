"""Which algorithm and which tile a pass uses: the one place where sizes and the CPU decide, never a timing (results
must not depend on noise). A file here is named like the file of `nnjit/kernels/` whose loops it cuts.

What the CPU or the threads decide (tiles, shares, the tiles of a task) leaves every sum in the same order. What changes
bits, a form of Winograd's algorithm, the parts and pieces of a sum, follows from sizes alone.
"""
