"""Frames of a small camera: real digits at several distances before a background that is never still."""

from functools import lru_cache

import numpy as np
from sklearn.datasets import load_digits

from reprune.task.bases import Examples, carve

SIZE = 32
NEAR, FAR = 1.0, 2.0
COUNTS = {"train": 1200, "tune": 150, "calibration": 150, "eval": 400}


@lru_cache(maxsize=1)
def frames():
    """All frames with what is in them: arrays `image`, `ink` and `depth`, lists `boxes` and `ids`, and the
    rows of each split. A digit is pasted in one split only.
    """
    digits = load_digits()
    shares = {"tune": 0.1, "calibration": 0.1, "eval": 0.25}
    pools = carve([str(row) for row in range(len(digits.images))], shares)
    random = np.random.default_rng(0)
    found = {"image": [], "ink": [], "depth": [], "boxes": [], "ids": []}
    splits = {}
    for split, count in COUNTS.items():
        splits[split] = range(len(found["ids"]), len(found["ids"]) + count)
        for number in range(count):
            image, ink, depth, boxes = paste(digits, pools[split], random)
            found["image"].append(image)
            found["ink"].append(ink)
            found["depth"].append(depth)
            found["boxes"].append(boxes)
            found["ids"].append(f"{split}-{number:04d}")
    arrays = {name: np.stack(found[name]) for name in ("image", "ink", "depth")}
    return found | arrays, splits


def examples(targets):
    """The frames with one of their answers; every member has the same inputs, ids and slices."""
    found, splits = frames()
    slices = {"digits": [str(len(boxes)) for boxes in found["boxes"]]}
    return (
        Examples(
            inputs=(found["image"][:, None],),
            targets=found[targets],
            ids=found["ids"],
            slices=slices,
        ),
        splits,
    )


def paste(digits, pool, random):
    """One to three digits: the image, where there is ink, how far the nearest digit is, and the boxes."""
    background = random.uniform(0, 0.3) * np.kron(random.random((4, 4)), np.ones((8, 8)))
    image = (background + random.normal(0, 0.03, (SIZE, SIZE))).astype(np.float32)
    ink = np.zeros((SIZE, SIZE), np.uint8)
    boxes, nearest = [], FAR
    for corner in random.permutation(4)[: random.integers(1, 4)]:
        row, distance = random.choice(pool), random.uniform(NEAR, FAR)
        size = round(16 / distance)
        x, y = 16 * (corner % 2), 16 * (corner // 2)
        x, y = x + random.integers(0, 17 - size), y + random.integers(0, 17 - size)
        places = np.arange(size) * 8 // size
        digit = digits.images[row][np.ix_(places, places)] / 16
        part = (slice(y, y + size), slice(x, x + size))
        image[part] = np.maximum(image[part], digit)
        ink[part] = digit > 0.4
        boxes.append([digits.target[row], x, y, x + size, y + size])
        nearest = min(nearest, distance)
    return image, ink, np.float32(nearest), np.array(boxes, np.float32)
