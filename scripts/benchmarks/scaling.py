"""scaling: what masks cost as the work grows: weights from 1 to 100 million, M from 4 to 32, 10 to 300 layers."""

from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.common import timed
from midstate.common.project import ROOT
from midstate.distributed.machine import keep_freed_memory
from midstate.sparsity import NM, LayerView
from midstate.sparsity.paths.base import layer_masks

WEIGHTS = (1e6, 3e6, 1e7, 3e7, 1e8)
GROUPS = (4, 8, 16, 32)
LAYERS = (10, 30, 100, 300)
FIGURE = ROOT / "results" / "bench" / "scaling.png"


def measure(repeats: int) -> list[dict[str, Any]]:
    """One row a size; what does not grow is 1:16 (M/4:M where M grows), one 1x1 layer, 10 million weights."""
    keep_freed_memory()  # as in training
    torch.manual_seed(0)
    cases = [("weights", int(n), 1, 1, 16) for n in WEIGHTS]
    cases += [("M", int(1e7), 1, m // 4, m) for m in GROUPS]
    cases += [("layers", int(1e7), count, 1, 16) for count in LAYERS]
    rows = [_row(*case, repeats) for case in cases]
    _draw(rows, FIGURE)
    return rows


def _row(grows: str, num_weights: int, num_layers: int, n: int, m: int, repeats: int) -> dict[str, Any]:
    channels = 512
    layers = [torch.randn(num_weights // num_layers // channels, channels) for _ in range(num_layers)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layers = [layer.to(device) for layer in layers]
    pattern, masks, copies = NM(n, m), [], []
    places = [LayerView(layer, level=n, score_of=lambda layer: layer.weight.abs()) for layer in layers]
    for _ in range(repeats):
        copies.append(timed(lambda: [layer.clone() for layer in layers]))
        masks.append(timed(lambda: layer_masks(pattern, places, [n] * len(places))))
    return {
        "what grows": grows,
        "weights (millions)": round(num_weights / 1e6, 1),
        "layers": num_layers,
        "pattern": pattern.title,
        "masks (ms)": round(1000 * median(masks), 2),
        "ns a weight": round(1e9 * median(masks) / num_weights, 2),
        "copies": round(median(masks) / median(copies), 1),
    }


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot time over weights on logarithmic axes, beside a line of linear growth."""
    from matplotlib import pyplot as plt

    from midstate.study.drawing import STYLE, save

    points = [(row["weights (millions)"], row["masks (ms)"]) for row in rows if row["what grows"] == "weights"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(3.4, 2.6))
        millions, taken = zip(*points, strict=True)
        axes.loglog(millions, taken, "o-", label="1:16 masks")
        middle = len(points) // 2
        axes.loglog(
            millions, [taken[middle] * n / millions[middle] for n in millions], "--", color="grey", label="linear"
        )
        axes.set_xlabel("weights (millions)")
        axes.set_ylabel("milliseconds")
        axes.legend()
        save(figure, path.parent, path.stem)
