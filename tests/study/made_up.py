"""Rows of the second edition that are made up, so that every verdict is seen in a report; no result of anything."""

from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd

from midstate.study.claims import read_claims

SEEDS = range(1, 21)
# The last pattern that an arm matches decides. With them C1 and C4 are supported, and so on: see VERDICTS.
TOP1 = {
    "*": 88.0, "*dense": 91.0, "cut_*_macs": 88.1, "cut_weights_[egl]*_9[57]": 89.0, "cut_filters_[egl]*_70": 89.0,
    "cut_weights_uniform_*": 88.0, "cut_filters_uniform_70": 88.0, "nm_1of16": 84.0, "nm_4of16": 89.5,
    "nm_worst_both": 85.0, "ramp_blocks": 85.0, "ramp_blocks_maxq": 85.0, "ramp_none": 84.0, "ramp_inverse": 84.9,
}  # fmt: skip
RATES = {"70": 0.7, "80": 0.8, "85": 0.85, "90": 0.9, "95": 0.95, "97": 0.97, "98": 0.98, "99": 0.99}
VERDICTS = {
    "C1": "supported", "C2": "supported", "C3": "no power", "C4": "supported", "C5": "supported", "C6": "supported",
    "C7": "refuted", "C8": "supported", "C9": "inconclusive", "C10": "no power", "C11": "too small to matter",
    "C12": "supported", "C13": "too small to matter", "C14": "refuted", "C15": "no power",
}  # fmt: skip


def value(levels: dict[str, float], arm: str) -> float:
    """What the last matching pattern gives."""
    return [each for pattern, each in levels.items() if fnmatchcase(arm, pattern)][-1]


def row(arm: str, seed: int, overrides: str = "") -> dict:
    """One run, made up."""
    name, draws = arm.removeprefix("fashion/"), np.random.default_rng([seed, *arm.encode()])
    noise = draws.normal(0, 0.15) + 0.3 * np.sin(seed)
    rate = next((each for key, each in RATES.items() if name.endswith(key)), 0.0)
    macs = {"nm_sensitivity": 1.5, "nm_error": 2.1, "nm_erk": 1.8, "nm_owl": 1.3, "nm_4of16": 2.0, "dense": 4.0}
    spent = macs.get(name, 0.8 + 0.2 * int(name[-1]) if name.startswith("nm_random") else 1.0)
    gain = 1.5 * np.log2(spent) if name.startswith("nm_") and name != "nm_4of16" else 0
    top1 = value(TOP1, name) + noise + (gain if name != "nm_sensitivity" else 0.05)
    if name.startswith("cut_weights_uniform") and rate not in (0.95, 0.97):
        top1 = 10 + 78 / (1 + np.exp(40 * (rate - 0.96))) + noise
    flips = {"flip_0": 0.064, "flip_0_5": 0.032, "flip_2": 0.008, "flip_10": 0.002, "flip_swaps": 0.1}.get(name, 0.01)
    free = 1.4 if name.startswith("cut") and "uniform" not in name and not name.endswith("_macs") else spent
    return {
        "arm": arm, "overrides": overrides, "seed": seed, "claims": "C5-0", "data": "fashion_mnist",
        "model": "resnet20", "top1": top1, "val_top1": top1, "sparsity": 0.75,
        "params_sparse": 68_000.0 * (1.97 if name == "nm_4of16" else 1),
        "macs": 2.5e6 * free, "wall_seconds": 80.0, "git": "abc", "moved": 0.4, "config_hash": "abc", "churn": 0.0,
        "gap_last": value({"*": 1.0, "ramp_n*": 6.0}, name) + noise, "gap_max": 4 + draws.normal(0, 4),
        "gap_first": value({"*": 1.0, "gate_blocks_smallest": 0.5}, name) + noise, "flipflop": 0.2,
        "gap_last_third": value({"*": 0.5, "ramp_inverse*": 3.0}, name) + noise, "gap_first_third": 0.5 + noise,
        "gap_last_third_but_one": 0.4 + noise, "top1_before_last_jump": 85 + noise, "top1_mid_ramp": 80 + noise,
        "log_loss_variance": -4 + noise, "log_relative_variance": -3 - 0.3 * np.log2(flips + 0.001) + noise,
        "revived": flips, "depth_correlation": -0.6 + noise / 10, "half_correlation": 0.8,
        "depth_correlation_partial": noise / 10, "depth_correlation_within": noise / 10,
        "just_pruned": 88 - 60 * max(rate - 0.6, 0),
        "recovered": 90 - 60 * max(rate - 0.6, 0) * max(1.4 * rate - 0.8, 0),
    }  # fmt: skip


def write(results: Path, leave_out: str = "") -> None:
    """Write runs.csv and pilot.csv with every run of the second edition but those of the arms that match a pattern."""
    claims, full, pilot = read_claims(), {}, {}
    for claim in claims:
        for arm in claim.all_arms:
            tag = {"claims": f"{claim.claim}-{claim.digest}"}
            every = [] if fnmatchcase(arm, leave_out) else claim.seeds("full")
            (cell,) = claim.cells("full")
            full |= {(arm, seed): row(arm, seed, " ".join(cell)) | tag for seed in every if (arm, seed) not in full}
        for cell in claim.cells("pilot")[:1]:
            every = claim.arms_in(cell, "pilot")
            pilot |= {(arm, seed): row(arm, seed, " ".join(cell)) for arm in every for seed in claim.seeds("pilot")}
    for each in pilot.values():
        if each["arm"] == "fashion/flip_swaps":
            each["log_relative_variance"] += 2
    _curves([arm for arm, _ in full], results)
    pd.DataFrame(full.values()).to_csv(results / "runs.csv", index=False)
    pd.DataFrame(pilot.values()).to_csv(results / "pilot.csv", index=False)


def _curves(arms: list[str], results: Path) -> None:
    """Epochs and probes of ramps, and layers of the networks whose sensitivity is measured."""
    keys = [{"arm": arm, "overrides": "", "seed": seed} for arm in dict.fromkeys(arms) for seed in (1, 2, 3)]
    ramps = [key for key in keys if "/ramp_" in key["arm"]]
    layers = [key for key in keys if "/depth_" in key["arm"]]
    epochs = [
        {**key, "epoch": at, "val/top1": 60 + 2 * at - 9 * ("blocks" in key["arm"]) * (at == 6), "kept": 1 - at / 12}
        for key in ramps
        for at in range(1, 12)
    ]
    probes = [
        {**key, "progress": k / 15, "gap_bn": 0.2 * k * ("ramp_n" in key["arm"]) + key["seed"] / 10}
        for key in ramps
        for k in range(1, 16)
    ]
    shown = {"kind": "share", "params": 2304}
    rises = [
        {**key, **shown, "layer": f"l{at}", "depth": at, "loss_rise": 2 / at + key["seed"] / 9}
        for key in layers
        for at in range(1, 19)
    ]
    tables = {"epochs": epochs, "probes": probes, "sensitivity": rises}
    for name, rows in tables.items():
        pd.DataFrame(rows).to_csv(results / f"{name}.csv", index=False)
