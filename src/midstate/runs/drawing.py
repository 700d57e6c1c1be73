"""Shared by all pictures: style, colours, saving."""

from io import BytesIO
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from midstate.common.files import write_atomically

# Okabe and Ito's colours and a marker each: told apart with any colour vision, and in print.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
PURPLE, SKY, YELLOW, BLACK = "#CC79A7", "#56B4E9", "#E69F00", "#000000"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY, BLACK)
MARKERS = "osD^vPX"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "midstate",
}
matplotlib.use("Agg")  # no display is needed


def save(figure: Figure, folder: Path, name: str, kinds: tuple[str, ...] = ("png", "svg")) -> Path:
    """Write and close a figure, without a date, so that equal figures give equal files; return the first path."""
    for kind in kinds:
        content = BytesIO()
        figure.savefig(content, format=kind, **({"dpi": 150} if kind == "png" else {"metadata": {"Date": None}}))
        write_atomically(folder / f"{name}.{kind}", content.getvalue())
    plt.close(figure)
    return folder / f"{name}.{kinds[0]}"
