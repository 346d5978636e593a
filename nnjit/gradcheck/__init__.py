"""Gradients against central differences, through the very kernels that training uses.

`check` compares a network's backward pass with differences of its forward pass, entry by entry; `cases` holds a network
for every registered layer and loss in shapes that provoke trouble.
"""

from nnjit.gradcheck.check import Report, Settings, TensorReport, check
from nnjit.gradcheck.probe import Probe

__all__ = ["Probe", "Report", "Settings", "TensorReport", "check"]
