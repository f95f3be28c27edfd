"""A folder's name in, scikit-learn's handwritten digits as class folders of PNG in it out: FOLDER/0/0000.png …

1,797 scans of 8x8 pixels from NIST forms, bundled with scikit-learn:
https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

_BRIGHTEST = 16  # the scans count the dark pixels of 4x4 blocks


def write(folder: pathlib.Path) -> int:
    """Returns how many images were written."""
    digits = load_digits()
    for index, (scan, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(digit) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(scan * 255 / _BRIGHTEST).astype(np.uint8)).save(path)
    return len(digits.target)


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    print(f"wrote {write(target):,} handwritten digits to {target}/CLASS/NUMBER.png")
