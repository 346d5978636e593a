"""Write data/digits/*.csv from the copy of the UCI optical digits that scikit-learn carries.

Run `python data/make_digits.py` with scikit-learn installed; the files come out byte for byte as they are shipped.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

FOLDER = Path(__file__).parent / "digits"
SEED = 1
SHARES = {"test": 0.2, "validation": 0.1}
"""Share of each digit's images; training gets the rest."""

images, digits = load_digits(return_X_y=True)
rng = np.random.Generator(np.random.PCG64(SEED))
split = np.full(len(digits), "train", dtype=object)
for digit in range(10):
    rows = np.flatnonzero(digits == digit)
    rows = rows[np.argsort(rng.random(len(rows)))]
    for name, share in SHARES.items():
        taken = round(share * len(rows))
        split[rows[:taken]] = name
        rows = rows[taken:]

FOLDER.mkdir(exist_ok=True)
header = ",".join([f"p{row}{column}" for row in range(8) for column in range(8)] + ["digit"])
for name in ("train", "validation", "test"):
    table = np.column_stack([images, digits])[split == name]
    np.savetxt(FOLDER / f"{name}.csv", table, fmt="%d", delimiter=",", header=header, comments="")
