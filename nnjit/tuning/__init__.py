"""How convolutions, dense layers and updates are computed: by which algorithm, in which order, with which tile. Sizes
and the CPU decide, never a timing: results must not depend on noise.

`algorithms.py` and `sums.py` hold what changes bits, and follow from sizes alone. The other files may ask `machine.py`
for the CPU and the threads, since tiles, and the tasks that share them, leave every sum in the same order. Each is
named like the file of `nnjit/kernels/` whose loops it cuts; `cost.py` is what tiles cost.
"""
