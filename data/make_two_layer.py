"""Write data/two-layer/*.npy: the one sample of the two-layer worked example, in float64 so that 0.05 is 0.05."""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "two-layer"

FOLDER.mkdir(exist_ok=True)
np.save(FOLDER / "inputs.npy", np.array([[0.05, 0.10]]))
np.save(FOLDER / "targets.npy", np.array([[0.01, 0.99]]))
