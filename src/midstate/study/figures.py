"""One figure a claim, and the article's own; each shows means and 95 % intervals over seeds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from midstate.runs.bands import band
from midstate.runs.drawing import COLOURS, GREY
from midstate.study import curves, drawing, panels
from midstate.study.claims import Claim, in_words, read_claims
from midstate.study.drawing import PAGE, SMALL, STYLE, Tables, save
from midstate.study.figure_plan import CURVES, Drawing, Panel
from midstate.study.verdicts import Result, rows_of

LENGTHS = (
    ("full", ("trainer.epochs=15",)),
    ("quick", ()),
)  # scale and cell of the article's figure in the first edition, longest first


@dataclass(frozen=True)
class Drawn:
    """A figure on disk, which runs it shows, and its caption."""

    path: Path
    runs: str
    caption: str = ""
    narrow: bool = False


def draw_claims(claims: list[Claim], tables: Tables, folder: Path, decided: Mapping[str, Result]) -> dict[str, Drawn]:
    """Draw every claim that is decided, in the cell that decides it; the article's figure under `article`.

    Args:
        claims: to draw.
        tables: all rows.
        folder: for the files.
        decided: the result that decides a claim, by the claim's key.
    """
    drawn = {}
    for claim in claims:
        if result := decided.get(claim.key):
            cell = tuple(result.overrides.split())
            seeds = rows_of(claim, result.scale, cell, tables.runs).seed.unique()
            rows = tables.cell(result.overrides, seeds)
            path = save(draw(claim, rows), folder, claim.key)
            plan = claim.figure or _endpoints(claim)
            caption = f"n = {result.measured.seeds} seeds. {plan.caption}".strip()
            drawn[claim.key] = Drawn(path, in_words(result.scale, cell), caption, (plan.width or PAGE) < PAGE)
    if found := _article_rows(claims, tables, decided):
        rows, arms, runs = found
        drawn["article"] = Drawn(save(article(rows, arms), folder, "article"), runs, mid_ramp(rows, arms))
    return drawn


def _article_rows(
    claims: list[Claim], tables: Tables, decided: Mapping[str, Result]
) -> tuple[Tables, dict[str, str], str] | None:
    """Rows, arms and cell of the article's figure: of the second edition where it is decided, else of the first."""
    for claim in claims:
        if claim.edition > 1 and claim.figure and claim.figure.article and (result := decided.get(claim.key)):
            cell = tables.cell(result.overrides, claim.seeds(result.scale))
            if cell.has(claim.figure.article):
                return cell, claim.figure.article, in_words(result.scale, tuple(result.overrides.split()))
    for scale, cell in LENGTHS:
        rows = tables.cell(" ".join(cell))
        if rows.has(_of_the_article()):
            return rows, _of_the_article(), f"first edition, {in_words(scale, cell)}"
    return None


def draw(claim: Claim, tables: Tables) -> Figure:
    """Draw the figure of one claim from the rows of one cell."""
    return draw_panels(claim.figure or _endpoints(claim), claim, tables)


def draw_panels(shown: Drawing, claim: Claim, tables: Tables) -> Figure:
    """Draw panels of a claim from the rows of one cell."""
    with plt.rc_context(STYLE):
        figure, places = drawing.panels(len(shown.panels), shown.height, shown.ratios, shown.columns, shown.width)
        for axes, panel in zip(places, shown.panels, strict=True):
            getattr(curves if panel.kind in CURVES else panels, panel.kind)(axes, panel, claim, tables)
            words = {"xlabel": panel.xlabel, "ylabel": panel.ylabel}
            axes.set(**{key: text for key, text in words.items() if text})
            if panel.title:
                axes.set_title(panel.title, pad=14 if panel.margin or panel.costs else None)
        if shown.same_scale:
            alike = [axes for axes, panel in zip(places, shown.panels, strict=True) if panel.kind == "effects"]
            limits = [axes.get_xlim() for axes in alike]
            for axes in alike:
                axes.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
    return figure


def _endpoints(claim: Claim) -> Drawing:
    """The figure of a claim whose file plans none: every endpoint in the unit of the primary one."""
    unit = claim.endpoint.unit
    rows = {each.name: each.name for each in claim.endpoints if each.unit == unit}
    return Drawing((Panel("effects", rows=rows, margin=claim.endpoint.sesoi is not None, xlabel=unit),), 3.2)


def _of_the_article() -> dict[str, str]:
    """The arms of the article's own figure, with their labels."""
    return next(each.figure.article for each in read_claims(edition=1) if each.figure and each.figure.article)


def article(tables: Tables, arms: Mapping[str, str] | None = None) -> Figure:
    """The article's lost figure: its three curves over epochs, the path below, gaps beside; axes inferred.

    Args:
        tables: rows of one cell.
        arms: label of each arm; None: the arms of the first edition.
    """
    arms = arms or _of_the_article()
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(PAGE, 3.5))
        axes = figure.subplot_mosaic([["curves", "gaps"], ["path", "gaps"]], height_ratios=[3, 1])
        for i, (arm, label) in enumerate(arms.items()):
            epochs, probes = (table[table.arm == arm] for table in (tables.epochs, tables.probes))
            band(axes["curves"], epochs, "epoch", "val/top1", label, i)
            band(axes["gaps"], probes, "progress", "gap_bn", label, i)
            kept = epochs.groupby("epoch").kept.mean()
            width = 4.0 - 1.5 * i  # so that curves that coincide can be seen
            axes["path"].plot([0, *kept.index], [100, *(100 * kept)], color=COLOURS[i], lw=width, label=label)
        axes["curves"].sharex(axes["path"])
        axes["curves"].tick_params(labelbottom=False)
        axes["curves"].set_title("validation top-1 (%)", loc="left")
        axes["curves"].legend()
        axes["path"].set_ylabel("kept (%)")
        axes["path"].set_xlabel("epoch (axes inferred)")
        axes["path"].xaxis.set_major_locator(MaxNLocator(integer=True))
        epoch, low, high = _deepest(tables, arms)
        axes["curves"].annotate("", (epoch, low), (epoch, high), arrowprops={"arrowstyle": "<->", "color": "#333333"})
        place = {"textcoords": "offset points", "ha": "center", "bbox": {"fc": "white", "ec": "none", "pad": 1}}
        axes["curves"].annotate(f"{high - low:.0f} points", (epoch, low), (0, -16), fontsize=SMALL, **place)
        axes["gaps"].axhline(0, color=GREY, lw=0.8)
        axes["gaps"].set_xlabel("progress along the path to 1:16")
        axes["gaps"].set_title("gap at the jump (points; positive: accuracy is lost)", loc="left")
    return figure


def mid_ramp(tables: Tables, arms: Mapping[str, str]) -> str:
    """Caption of the article's figure: how far its first curve lies below its last at the worst epoch."""
    epoch, low, high = _deepest(tables, arms)
    names = list(arms.values())
    seeds = tables.epochs[tables.epochs.arm == next(iter(arms))].seed.nunique()
    return (
        f"n = {seeds} seeds. Small gaps are not all: after epoch {epoch:g} {names[0]} lies {high - low:.1f} points "
        f"below {names[-1]}. The path below the curves is the same for all, but for its steps."
    )


def _deepest(tables: Tables, arms: Mapping[str, str]) -> tuple[float, float, float]:
    """The epoch at which the first arm lies farthest below the last, and validation top-1 of both."""
    ends = (next(iter(arms)), list(arms)[-1])
    first, last = (tables.epochs[tables.epochs.arm == arm].groupby("epoch")["val/top1"].mean() for arm in ends)
    epoch = (last - first).dropna().idxmax()
    return float(epoch), float(first[epoch]), float(last[epoch])
