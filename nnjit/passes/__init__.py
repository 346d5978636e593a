"""How the passes of layers are bound to kernels: which calls each records, on which operands, in which tiles."""
