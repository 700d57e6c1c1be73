"""Panels over pruning rates or over what an arm spends, of rows that are made up."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from midstate.study.claims import read_claims
from midstate.study.drawing import Tables
from midstate.study.figures import draw


def drawn(claim, arms):
    """The lines of points in the claim's first panel; every arm has runs of three seeds."""
    rows = [
        {"arm": arm, "seed": seed, "top1": 80.0 - at + seed, "macs": 1e6 * (at + 1) + seed}
        for at, arm in enumerate(arms)
        for seed in range(3)
    ]
    runs = pd.DataFrame(rows)
    figure = draw(claim, Tables(runs, runs, runs, runs))
    lines = [bars.lines[0].get_xdata() for bars in figure.axes[0].containers]
    plt.close(figure)
    return lines


def test_arms_and_slopes_without_runs_are_left_out():
    (claim,) = read_claims(["C4"], edition=1)
    fast = [arm for arm in claim.all_arms if arm.endswith("_fast")]
    others = [arm for arm in claim.all_arms if arm not in fast]
    every, some = list(claim.endpoint.slope.values()), [0.3, 0.8, 0.95]
    assert [list(line) for line in drawn(claim, others)] == [every]
    assert [list(line) for line in drawn(claim, [*others, *fast[:3], fast[-1]])] == [every, some]


def test_an_arm_without_runs_is_no_point_of_a_trend():
    (claim,) = read_claims(["C12"])
    endpoint, (panel,) = claim.endpoint, claim.figure.panels
    claim = replace(claim, endpoint=replace(endpoint, of=endpoint.of[1:]))  # the first is shown beside
    (line,) = drawn(claim, [endpoint.reference, *endpoint.of[1:]])
    assert np.allclose(line, np.log2(range(2, len(panel.arms) + 1)), atol=1e-3)
