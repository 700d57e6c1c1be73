"""files: images a second from JPEGs in folders, decoded by 0, 1 or 2 processes, cropped, mirrored, in batches.

The files are made for the benchmark, of ImageNet's usual size.
"""

import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from midstate.data import Crops, ImageFolder

NUM_IMAGES, HEIGHT, WIDTH = 256, 375, 500  # ImageNet's usual shape
BATCH = 32
WORKERS = (0, 1, 2)


def measure(repeats: int) -> list[dict[str, Any]]:
    """One row a number of processes; each pass goes through all files; the first pass is not counted."""
    with tempfile.TemporaryDirectory() as root:
        write_images(Path(root), NUM_IMAGES, HEIGHT, WIDTH)
        return [_row(root, workers, repeats) for workers in WORKERS]


def write_images(root: Path, count: int, height: int, width: int) -> None:
    """Write `count` JPEGs of two classes for training, and two for test: smooth noise, as photographs are smooth."""
    draws = np.random.default_rng(0)
    for split, images in (("train", count), ("val", 2)):
        for index in range(images):
            folder = root / split / f"class{index % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            coarse = draws.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            image.save(folder / f"{index:04}.jpg", quality=90)


def _row(root: str, workers: int, repeats: int) -> dict[str, Any]:
    data = ImageFolder(augmentation=Crops(), root=root, num_validation=2, workers=workers).load()
    batches = data.train.training(BATCH, Crops(), seed=0)
    seconds = []
    for epoch in range(repeats + 1):
        started = time.perf_counter()
        count = sum(len(labels) for _, labels in batches.epoch(epoch))
        seconds.append((time.perf_counter() - started) / count)
    batches.close()
    return {
        "processes": workers or "none",
        "cores": len(os.sched_getaffinity(0)),
        "images/s": round(1 / median(seconds[1:])),
    }
