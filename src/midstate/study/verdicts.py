"""From rows of runs to verdicts, by the rules that stand in docs/claims.md.

Values are first brought together within a seed (a contrast over arms), then compared over seeds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from midstate.study import shapes, statistics
from midstate.study.claims import SCALES, Claim
from midstate.study.endpoints import Endpoint, Gate

SUPPORTED, REFUTED, NO_POWER, INCONCLUSIVE, NOT_RUN = "supported", "refuted", "no power", "inconclusive", "not run"
# Curves: the exponential has to be better by 2, pooled and in this share of the seeds; worse by 10 refutes it.
SEED_SHARE, REFUTING_AICC = 0.8, 10.0
NUM_SYNTHETIC = 4  # synthetic curves of each shape
COLUMNS = (
    "claim", "endpoint", "data", "model", "scale", "effect", "low", "high", "seeds", "sesoi", "mde", "control",
    "verdict", "git",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """The measured endpoint: effect with its 95 % interval over seeds."""

    effect: float
    low: float
    high: float
    seeds: int
    mde: float  # minimum detectable effect at 80 % power
    correlation: float | None = None  # of the pairs
    bca: tuple[float, float] | None = None
    sd: float = nan  # of the differences
    equivalent: bool | None = None  # of an equivalence test
    seed_share: float | None = None  # of the test of curves: share of seeds in which the exponential is the best
    detail: str = ""  # in words, what the numbers leave open


@dataclass(frozen=True)
class Result:
    """One endpoint of one claim in one cell; a row of claims.csv and more."""

    claim: str
    endpoint: str
    data: str
    model: str
    scale: str
    measured: Measured
    sesoi: float
    control: str  # shown, not shown, not run; empty for secondary endpoints
    verdict: str  # empty for secondary endpoints
    git: str
    unit: str
    overrides: str

    @property
    def row(self) -> dict[str, Any]:
        """The columns of claims.csv."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        every |= {name: getattr(self.measured, name) for name in ("effect", "low", "high", "seeds", "mde")}
        return {name: every[name] for name in COLUMNS}


def judge(claims: Iterable[Claim], runs: pd.DataFrame) -> list[Result]:
    """Judge every claim in every cell of which there are runs: the primary endpoint first, then the others."""
    results = []
    for claim in claims:
        for scale in SCALES:
            for cell in claim.cells(scale):
                rows = rows_of(claim, cell, runs)
                if not rows.empty:
                    results += _judge_cell(claim, scale, " ".join(cell), rows)
    return results


def rows_of(claim: Claim, cell: tuple[str, ...], runs: pd.DataFrame) -> pd.DataFrame:
    """The rows that a claim compares in one cell."""
    return runs[(runs.overrides == " ".join(cell)) & runs.arm.isin(claim.arms_in(cell))]


def _judge_cell(claim: Claim, scale: str, overrides: str, rows: pd.DataFrame) -> list[Result]:
    control = measure(claim.control, rows)
    shown = NOT_RUN if control is None else "shown" if _shown(claim.control, control) else "not shown"
    results = []
    for endpoint in (claim.endpoint, claim.control, *claim.secondary):
        measured = measure(endpoint, rows)
        if measured is None:
            continue
        used = rows[rows.arm.isin(endpoint.arms)]
        primary = endpoint is claim.endpoint
        sesoi = margin(endpoint, rows) if endpoint.scaled_by else endpoint.sesoi
        results.append(
            Result(
                claim=claim.claim,
                endpoint=" ".join(filter(None, (endpoint.name, _variant(overrides)))),
                data="+".join(sorted(used.data.unique())),
                model="+".join(sorted(used.model.unique())),
                scale=scale,
                measured=measured,
                sesoi=nan if sesoi is None else sesoi,
                control=shown if primary else "",
                verdict=verdict(endpoint, measured, sesoi, shown) if primary else "",
                git=" ".join(sorted(used.git.dropna().unique())),
                unit=endpoint.unit,
                overrides=overrides,
            )
        )
    return results


def _variant(overrides: str) -> str:
    """Overrides of a cell that are not data, network or length; named beside the endpoint."""
    plain = ("data", "model", "trainer.epochs", "trainer.batch_size")
    variant = [each for each in overrides.split() if not each.startswith(plain)]
    return f"[{' '.join(variant)}]" if variant else ""


def measure(endpoint: Endpoint, rows: pd.DataFrame) -> Measured | None:
    """Measure an endpoint on the rows of one cell; None where fewer than two seeds have every arm."""
    needed = endpoint.arms
    if endpoint.value not in rows:  # no run has it yet
        return None
    values = rows[rows.arm.isin(needed)].pivot(index="seed", columns="arm", values=endpoint.value)
    values = values.reindex(columns=needed).dropna()
    if len(values) < 2:
        return None
    if endpoint.over:
        return _CURVES[endpoint.test](np.array(list(endpoint.over.values())), values[list(endpoint.over)].to_numpy())
    if endpoint.pairs:
        return _share_within(endpoint, values)
    weights = pd.Series(endpoint.weights)
    plus, minus = (values[list(side.index)] @ side.abs() for side in (weights[weights > 0], weights[weights < 0]))
    measured = _measured(plus, minus)
    if endpoint.test != "equivalence":
        return measured
    bound = margin(endpoint, rows)
    if not bound > 0:
        return replace(measured, detail="no margin: the difference that bounds it is too small to be shared")
    tost = statistics.equivalence(plus, minus, bound)
    detail = f"TOST p = {tost.p:.2g}, 90 % interval {tost.low:+.2f} to {tost.high:+.2f}, margin {bound:.2f}"
    return replace(measured, equivalent=tost.equivalent, detail=detail)


def _share_within(endpoint: Endpoint, values: pd.DataFrame) -> Measured:
    """Share of pairs of arms whose mean difference is smaller than the SESOI."""
    means = [(values[arm] - values[other]).mean() for arm, other in endpoint.pairs.items()]
    share = sum(abs(mean) < endpoint.sesoi for mean in means) / len(means)
    above = sum(mean >= endpoint.sesoi for mean in means)
    detail = f"of {len(means)} cells {above} above, {len(means) - above - round(share * len(means))} below"
    return Measured(share, nan, nan, len(values), nan, detail=detail)


def _measured(plus: Sequence[float], minus: Sequence[float]) -> Measured:
    estimate = statistics.paired(plus, minus)
    return Measured(
        estimate.effect,
        estimate.low,
        estimate.high,
        estimate.num_pairs,
        estimate.mde,
        estimate.correlation,
        estimate.bca,
        estimate.sd,
    )


def margin(endpoint: Endpoint, rows: pd.DataFrame) -> float:
    """Margin of an equivalence test: its SESOI, bounded by a share of another contrast; 0 where that is too small."""
    scale = endpoint.scaled_by
    if not scale:
        return float(endpoint.sesoi)
    other = measure(Endpoint("scale", endpoint.value, endpoint.unit, contrast=scale["contrast"]), rows)
    if other is None or other.effect < scale["at_least"]:
        return 0.0
    return float(min(endpoint.sesoi, scale["share"] * other.effect))


def verdict(endpoint: Endpoint, measured: Measured, sesoi: float, control: str) -> str:
    """Say what a primary endpoint means for its claim.

    Args:
        endpoint: the primary one.
        measured: what it came to.
        sesoi: smallest effect of interest, or the margin of an equivalence test.
        control: shown, not shown or not run.
    """
    if control != "shown":
        return NO_POWER
    if endpoint.test == "equivalence":
        return _equivalence_verdict(measured, sesoi)
    if endpoint.test == "shapes":
        return _shapes_verdict(measured, sesoi)
    sign = 1 if endpoint.expected == "positive" else -1
    low, high = sorted((sign * measured.low, sign * measured.high))
    if low > 0 and sign * measured.effect >= sesoi:
        return SUPPORTED
    if high < 0 or (-sesoi < low and high < sesoi):
        return REFUTED
    return INCONCLUSIVE


def _equivalence_verdict(measured: Measured, bound: float) -> str:
    if not bound > 0:  # what the margin is a share of is too small to be shared
        return NO_POWER
    if measured.equivalent:
        return SUPPORTED
    return REFUTED if measured.low > bound or measured.high < -bound else INCONCLUSIVE


def _shapes_verdict(measured: Measured, sesoi: float) -> str:
    if measured.effect >= sesoi and measured.seed_share >= SEED_SHARE:
        return SUPPORTED
    return REFUTED if measured.effect <= -REFUTING_AICC else INCONCLUSIVE


def _shown(control: Endpoint, measured: Measured) -> bool:
    """Tell whether a positive control showed what was planted."""
    if control.test == "recovery":
        return measured.effect >= control.sesoi
    sign = 1 if control.expected == "positive" else -1
    return min(sign * measured.low, sign * measured.high) > 0 and sign * measured.effect >= control.sesoi


def _shapes(rates: np.ndarray, values: np.ndarray) -> Measured:
    """AICc by which a - b * exp(c * s) is better than its best rival, all seeds pooled; values are (seeds, rates)."""
    rival, advantage = shapes.best_margin(shapes.fit_shapes(np.tile(rates, len(values)), values.ravel()))
    alone = [shapes.best_margin(shapes.fit_shapes(rates, seed))[1] for seed in values]
    share = sum(each >= 2 for each in alone) / len(alone)
    return Measured(
        advantage, nan, nan, len(values), nan, seed_share=share,
        detail=f"best rival: {rival}; better by 2 or more in {100 * share:.0f} % of the seeds",
    )  # fmt: skip


def _recovery(rates: np.ndarray, values: np.ndarray) -> Measured:
    """Share of synthetic curves, of every shape and with the data's noise, whose own shape is found to be the best."""
    pooled = np.tile(rates, len(values))
    fits = shapes.fit_shapes(pooled, values.ravel())
    noise = (min(fit.residual_sum for fit in fits.values()) / values.size) ** 0.5
    draws = np.random.default_rng(0)
    found = []
    for name, fit in fits.items():
        for _ in range(NUM_SYNTHETIC):
            synthetic = shapes.predict(fit, pooled) + draws.normal(0, noise, pooled.shape)
            refitted = shapes.fit_shapes(pooled, synthetic)
            found.append(min(refitted.values(), key=lambda each: each.aicc).name == name)
    return Measured(sum(found) / len(found), nan, nan, len(values), nan)


def _concavity(rates: np.ndarray, values: np.ndarray) -> Measured:
    """Share of neighbouring rates at which the curve bends down, a seed at a time."""
    shares = [np.mean(np.array(shapes.second_differences(rates, seed)) < 0) for seed in values]
    return _measured(shares, np.zeros(len(shares)))


_CURVES = {"shapes": _shapes, "recovery": _recovery, "concavity": _concavity}


def role_swap(sensitivity: pd.DataFrame, before: str, after: str) -> Measured | None:
    """Share of layer pairs whose order of sensitivity reverses between two arms, same seeds (身份互换).

    Args:
        sensitivity: the rows of sensitivity.csv of one cell.
        before: an arm.
        after: an arm; the same one: its own next seed, which is what noise alone reverses.
    """
    share = sensitivity[sensitivity.kind == "share"]
    arms = {arm: rows.pivot(index="seed", columns="layer", values="loss_rise") for arm, rows in share.groupby("arm")}
    if before not in arms or after not in arms:
        return None
    second = arms[after] if before != after else arms[after].set_axis(np.roll(arms[after].index, 1))
    seeds = [seed for seed in arms[before].index if seed in second.index]
    if len(seeds) < 2:
        return None
    swaps = [statistics.order_reversals(arms[before].loc[seed], second.loc[seed]) for seed in seeds]
    return _measured(swaps, np.zeros(len(swaps)))
