"""Gradients against central differences, through the very kernels that training uses.

`check` compares a network's backward pass with differences of its forward pass (`difference`), entry by entry, knowing
how far `rounding` moves each; `cases` holds a network for every registered layer and loss in shapes that provoke
trouble; `faults` proves that the check can fail. `scan` tells a wrong gradient from a poor difference, `penalty` checks
weight decay, and `against` compares with other implementations instead of differences.
"""

from nnjit.gradcheck.check import Report, Settings, TensorReport, check
from nnjit.gradcheck.probe import Probe

__all__ = ["Probe", "Report", "Settings", "TensorReport", "check"]
