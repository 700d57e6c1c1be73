"""Numbers shown beside endpoints that are not contrasts between arms."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pandas as pd

from midstate.study.claims import SCALES, Claim
from midstate.study.drawing import Tables
from midstate.study.measuring import Measured, role_swap

Line = tuple[str, str, int]  # what, value, seeds
WITHIN = 1.0  # points of top-1 from the dense network that count as recovered


@dataclass(frozen=True)
class Beside:
    """A number beside the endpoints of a claim, in one cell."""

    what: str
    scale: str
    overrides: str
    value: str
    seeds: int


def beside(claim: Claim, tables: Tables) -> list[Beside]:
    """Every line of a claim, cell by cell; empty for most claims."""
    lines = _LINES.get(claim.claim) if claim.edition == 1 else None  # the second edition has them as endpoints
    cells = [(scale, " ".join(cell)) for scale in SCALES for cell in claim.cells(scale)] if lines else []
    return [
        Beside(what, scale, cell, value, seeds)
        for scale, cell in cells
        for what, value, seeds in lines(claim, tables.cell(cell))
    ]


def epochs_to_recover(
    epochs: pd.DataFrame, arm: str, reference: str, within: float = WITHIN
) -> tuple[int, int, float] | None:
    """Epochs of finetuning until validation top-1 reaches the reference's of the last epoch, less `within`.

    Args:
        epochs: rows of epochs.csv of one cell, with arm, seed, epoch and val/top1.
        arm: the pruned network.
        reference: the dense network finetuned as long, compared seed by seed.
        within: points below the reference that still count as recovered.

    Returns:
        Number of seeds that recovered, number of seeds, and the median number of epochs, where seeds that did not
        recover are censored at the last epoch (inf: fewer than half recovered); None for fewer than two seeds.
    """
    both = epochs[epochs.arm.isin((arm, reference))].groupby("arm")
    curves = {name: rows.pivot(index="seed", columns="epoch", values="val/top1") for name, rows in both}
    if arm not in curves or reference not in curves:
        return None
    seeds = curves[arm].index.intersection(curves[reference].index)
    if len(seeds) < 2:
        return None
    goal = curves[reference].loc[seeds].iloc[:, -1] - within
    reached = curves[arm].loc[seeds].ge(goal, axis=0)
    done, first = reached.any(axis=1), reached.idxmax(axis=1)
    # All are censored at the same epoch, the last: the Kaplan-Meier median is the lower middle of the sorted values.
    in_order = sorted(first.where(done, np.inf))
    return int(done.sum()), len(seeds), float(in_order[(len(seeds) - 1) // 2])


def _recoveries(claim: Claim, tables: Tables) -> list[Line]:
    """C4: epochs of finetuning, at each rate, until the network is within a point of the dense one."""
    if tables.epochs.empty:
        return []
    slopes = [each for each in (claim.endpoint, *claim.secondary) if each.slope]
    found = {(arm, each.reference): rate for each in slopes for arm, rate in each.slope.items()}
    lines = []
    for (arm, reference), rate in found.items():
        measured = epochs_to_recover(tables.epochs, arm, reference)
        if measured:
            done, seeds, median = measured
            what = f"epochs until validation top-1 is within {WITHIN:g} point of {reference}: `{arm}`, rate {rate:g}"
            value = f"median {median:g}" if median < np.inf else "median beyond the last epoch"
            lines.append((what, f"{value}; {done} of {seeds} seeds recover", seeds))
    return lines


def _role_swaps(claim: Claim, tables: Tables) -> list[Line]:
    """C6c: share of layer pairs whose order of sensitivity reverses between uniform 2:8 and a found scheme."""
    if tables.sensitivity.empty:
        return []
    uniform = claim.role_swaps["reference"]
    arms = claim.role_swaps["arms"].items()
    found = [(name, role_swap(tables.sensitivity, uniform, arm)) for arm, name in arms]
    what = "C6c, pairs of layers whose order of sensitivity reverses against uniform 2:8: "
    return [(what + name, f"{interval(each)} share", each.seeds) for name, each in found if each]


def interval(measured: Measured) -> str:
    """Effect with its 95 % interval; the same text of a measurement and of its row of claims.csv."""
    if np.isnan(measured.low):
        return "–" if np.isnan(measured.effect) else _signed(measured.effect)
    return f"{_signed(measured.effect)} [{_signed(measured.low)}, {_signed(measured.high)}]"


def _signed(value: float) -> str:
    """Two decimals of the six digits that claims.csv has, rounded as decimals: 3.795 is a little less in binary."""
    return f"{Decimal(f'{value:.6g}'):+.2f}"


_LINES: dict[str, Callable[[Claim, Tables], list[Line]]] = {"C4": _recoveries, "C6": _role_swaps}
