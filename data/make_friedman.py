"""Write data/friedman/*.csv: Friedman's first regression problem, drawn from its formula.

Run `python data/make_friedman.py`; the files come out byte for byte as they are shipped.
Source: Friedman 1991, "Multivariate adaptive regression splines", Annals of Statistics 19(1), 1-67.
"""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "friedman"
SEED = 1
SIZES = {"train": 1200, "validation": 300, "test": 500}

rng = np.random.Generator(np.random.PCG64(SEED))
FOLDER.mkdir(exist_ok=True)
for name, size in SIZES.items():
    # Inputs are rounded first, so that the target belongs to the inputs as written.
    x = rng.random((size, 10)).round(4)
    noise = rng.standard_normal(size)
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4] + noise
    header = ",".join([f"x{i}" for i in range(1, 11)] + ["y"])
    table = np.column_stack([x, y])
    np.savetxt(FOLDER / f"{name}.csv", table, fmt="%.4f", delimiter=",", header=header, comments="")
