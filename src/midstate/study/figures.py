"""One figure a claim, and the article's own; each shows means and 95 % intervals over seeds."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from midstate.runs.drawing import COLOURS, GREY, band
from midstate.study import drawing, panels
from midstate.study.claims import Claim, in_words, read_claims
from midstate.study.drawing import PAGE, STYLE, Tables, save
from midstate.study.figure_plan import Drawing, Panel


@dataclass(frozen=True)
class Drawn:
    """A figure as it lies on disk, and which runs it shows."""

    path: Path
    runs: str


def draw_claims(
    claims: list[Claim], tables: Tables, folder: Path, powerless: Collection[tuple[str, str]] = ()
) -> dict[str, Drawn]:
    """Draw every claim that has runs, in the first cell that has them; the article's figure under `article`.

    Args:
        claims: to draw.
        tables: all rows.
        folder: for the files.
        powerless: name and overrides of cells in which nothing can be concluded: drawn only where there is no other.
    """
    drawn = {}
    for claim in claims:
        cells = [(scale, cell) for scale in ("full", "quick") for cell in claim.cells(scale)]  # the larger, if there
        cells.sort(key=lambda each: (claim.claim, " ".join(each[1])) in powerless)
        for scale, cell in cells:
            rows = tables.cell(" ".join(cell))
            if rows.has(claim.arms_in(cell)):
                figure = save(draw(claim, rows), folder, claim.key)
                drawn[claim.key] = Drawn(figure, in_words(scale, cell))
                break
    for scale, cell in (("full", ("trainer.epochs=15",)), ("quick", ())):
        rows = tables.cell(" ".join(cell))
        if rows.has(_of_the_article()):
            with plt.rc_context(STYLE):
                drawn["article"] = Drawn(save(article(rows), folder, "article"), in_words(scale, cell))
            break
    return drawn


def draw(claim: Claim, tables: Tables) -> Figure:
    """Draw the figure of one claim from the rows of one cell."""
    return draw_panels(claim.figure or _endpoints(claim), claim, tables)


def draw_panels(shown: Drawing, claim: Claim, tables: Tables) -> Figure:
    """Draw panels of a claim from the rows of one cell."""
    with plt.rc_context(STYLE):
        figure, places = drawing.panels(len(shown.panels), shown.height, shown.ratios, shown.columns)
        for axes, panel in zip(places, shown.panels, strict=True):
            getattr(panels, panel.kind)(axes, panel, claim, tables)
            words = {"title": panel.title, "xlabel": panel.xlabel, "ylabel": panel.ylabel}
            axes.set(**{key: text for key, text in words.items() if text})
    return figure


def _endpoints(claim: Claim) -> Drawing:
    """For a claim whose file has no figure: every endpoint in the unit of the primary one."""
    unit = claim.endpoint.unit
    rows = {each.name: each.name for each in claim.endpoints if each.unit == unit}
    return Drawing((Panel("effects", rows=rows, margin=claim.endpoint.sesoi is not None, xlabel=unit),), 3.2)


def _of_the_article() -> dict[str, str]:
    """The arms of the article's own figure, with their labels."""
    return next(each.figure.article for each in read_claims(edition=1) if each.figure and each.figure.article)


def article(tables: Tables) -> Figure:
    """The article's lost figure: its three curves over epochs, the path below, gaps beside; axes inferred."""
    figure = plt.figure(figsize=(PAGE, 3.3))
    axes = figure.subplot_mosaic([["curves", "gaps"], ["path", "gaps"]], height_ratios=[3, 1])
    for i, (arm, label) in enumerate(_of_the_article().items()):
        epochs, probes = (table[table.arm == arm] for table in (tables.epochs, tables.probes))
        band(axes["curves"], epochs, "epoch", "val/top1", label, i)
        band(axes["gaps"], probes, "progress", "gap_bn", label, i)
        kept = epochs.groupby("epoch").kept.mean()
        axes["path"].plot([0, *kept.index], [100, *(100 * kept)], color=COLOURS[i], ls=("-", "--", ":")[i], lw=1.3)
    axes["curves"].sharex(axes["path"])
    axes["curves"].tick_params(labelbottom=False)
    axes["curves"].set_ylabel("validation top-1 (%)")
    axes["curves"].legend()
    axes["path"].set_ylabel("kept (%)")
    axes["path"].set_xlabel("epoch (axes inferred)")
    axes["path"].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes["gaps"].axhline(0, color=GREY, lw=0.8)
    axes["gaps"].set_xlabel("progress along the path to 1:16")
    axes["gaps"].set_ylabel("gap at the jump (points)")
    return figure
