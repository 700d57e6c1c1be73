"""The `figure` block of a claim's file."""

from dataclasses import dataclass, field
from typing import Any

# Kinds of panel, each a function of that name: PANELS in panels.py, CURVES in curves.py.
PANELS = ("effects", "points", "gaps", "depth", "levels", "sizes")
CURVES = ("shapes", "deficits", "recovered", "trend")


@dataclass(frozen=True)
class Panel:
    """One panel of a figure: its kind, its arms, and the labels of its axes."""

    kind: str
    arms: dict[str, str] = field(default_factory=dict)  # arm: label
    rows: dict[str, str | dict[str, float]] = field(default_factory=dict)  # label: name of an endpoint, or a contrast
    costs: bool = False  # parameters and MACs beside the arms
    chance: float | None = None  # top-1 of a guess, in percent
    bar: bool = False  # the SESOI as a length, where values and not differences are shown
    value: str = "top1"  # column that is shown: of runs.csv, for kind `levels` of levels.csv
    margin: bool = False  # a band of what is too small to matter, the SESOI or margin
    shade: tuple[float, float] | None = None  # interval of progress along the path to shade
    uniform: float | None = None  # for kind `levels`: the value of each layer if all were equal
    title: str = ""
    xlabel: str = ""
    ylabel: str = ""

    def __post_init__(self) -> None:
        if self.kind not in PANELS + CURVES:
            raise ValueError(f"kind={self.kind!r} of a panel: must be one of {', '.join(PANELS + CURVES)}")


@dataclass(frozen=True)
class Drawing:
    """The figure of a claim: its panels side by side, or in rows."""

    panels: tuple[Panel, ...]
    height: float = 2.7  # inches
    ratios: tuple[float, ...] | None = None  # relative widths of the columns
    columns: int | None = None  # panels a row; None: all
    same_scale: bool = False  # one range of the x axis for all panels of kind `effects`
    width: float | None = None  # inches; None: a column for one panel a row, else a page
    caption: str = ""  # what the figure itself does not show
    article: dict[str, str] = field(default_factory=dict)  # arm: label; the curves of the article's own figure

    @classmethod
    def read(cls, content: dict[str, Any]) -> "Drawing":
        """Make a figure's plan from its mapping in a claim's file."""
        return cls(**{**content, "panels": tuple(Panel(**each) for each in content["panels"])})

    @property
    def arms(self) -> set[str]:
        """Every arm that it shows by name."""
        contrasts = [what for panel in self.panels for what in panel.rows.values() if not isinstance(what, str)]
        return {arm for arms in (self.article, *(panel.arms for panel in self.panels), *contrasts) for arm in arms}


@dataclass(frozen=True)
class LevelFigure:
    """Bits or levels of a network's layers over depth: a figure and a table, with arms of their own."""

    name: str  # of the network
    figure: str  # name of the file
    pattern: str  # value of `--arms` that runs its arms
    seeds: int
    drawing: Drawing

    @classmethod
    def read(cls, content: dict[str, Any]) -> "LevelFigure":
        """Make it from an entry of `levels` in a claim's file."""
        own = {key: content[key] for key in ("name", "figure", "pattern", "seeds")}
        return cls(**own, drawing=Drawing.read({key: each for key, each in content.items() if key not in own}))

    @property
    def ways(self) -> list[tuple[Panel, str, str]]:
        """Panel, arm and label of every line over depth."""
        shown = [panel for panel in self.drawing.panels if panel.kind in ("levels", "depth")]
        return [(panel, arm, label) for panel in shown for arm, label in panel.arms.items()]

    @property
    def arms(self) -> list[str]:
        """Every arm that it shows."""
        return list(dict.fromkeys(arm for _, arm, _ in self.ways))
