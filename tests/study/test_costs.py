"""What arms cost, against numbers worked out by hand."""

from math import nan

import pandas as pd
import pytest
from made_up import SEEDS, row

from midstate.study.claims import read_claims
from midstate.study.costs import Scheme, described, diverged, hours_left, in_words, ratio, schemes
from midstate.study.endpoints import Endpoint
from midstate.study.measuring import Measured

RUNS = pd.DataFrame(
    [
        {"arm": arm, "seed": seed, "params_sparse": params + seed, "macs": macs, "top1": top1}
        for arm, params, macs, top1 in (("a", 10, 300, 80.0), ("b", 20, 100, 45.0), ("c", 40, 200, 70.0))
        for seed in (-1, 1)
    ]
)


@pytest.mark.parametrize(
    ("endpoint", "params", "macs"),
    [
        ({"contrast": {"a": 1, "b": -1}}, "0.50", "3.00"),
        ({"contrast": {"c": 2, "a": -1, "b": -1}}, "2.67", "1.00"),  # 40 over 15, 200 over 200
        ({"contrast": {"b": 1, "c": 1}, "divide_by": 2}, "–", "–"),  # nothing is compared
        ({"contrast": {"a": 1, "z": -1}}, "–", "–"),  # not run
        ({"slope": {"a": 0.1, "b": 0.9}, "reference": "c"}, "0.25 to 0.50", "0.50 to 1.50"),
        ({"test": "slope", "of": ("a", "b"), "against": "macs", "reference": "c"}, "0.25 to 0.50", "0.50 to 1.50"),
    ],
)
def test_costs_of_what_an_endpoint_compares(endpoint, params, macs):
    asked = Endpoint("", "top1", "points", **endpoint)
    assert [in_words(ratio(asked, RUNS, cost)) for cost in ("params", "macs")] == [params, macs]


@pytest.mark.parametrize(
    ("holds", "params", "macs", "outside"),
    [
        ("params", 0.99, 1.7, []),
        ("params", 0.989, 1.0, ["params"]),
        ("params", 1.001, 1.0, ["params"]),
        ("macs", 0.5, 1.0004, []),
        ("both", 1.0, 1.01, ["macs"]),
        ("both", 0.9, 0.9, ["params", "macs"]),
        ("nothing", 2.0, 2.0, []),
    ],
)
def test_a_scheme_that_does_not_hold_its_budget_is_named(holds, params, macs, outside):
    gain = Measured(1.0, 0.5, 1.5, 10, nan)
    assert Scheme("", "weights", "90 %", holds, {"params": params, "macs": macs}, gain).outside == outside


def test_arms_below_a_half_are_named_in_words():
    runs = RUNS.assign(arm=RUNS.arm.map({"a": "fashion/nm_2of16", "b": "fashion/nm_1of16", "c": "fashion/nm_4of16"}))
    assert diverged(runs) == ["Uniform 1:16: 2 of 2 seeds, mean 45.0 %"]
    assert described("c5_2of8") != "c5_2of8"


def test_what_is_left_to_run_is_told_in_hours_where_an_arm_is_known():
    (claim,) = read_claims(["C5"])
    empty = pd.DataFrame(columns=["arm", "overrides", "seed", "wall_seconds"])
    assert hours_left(claim, empty, empty) is None
    (cell, *_), seconds = claim.cells("pilot"), {"fashion/nm_1of16": 90, "fashion/nm_2of16": 180}
    pilot = pd.DataFrame(
        [{"arm": arm, "overrides": " ".join(cell), "seed": 100, "wall_seconds": each} for arm, each in seconds.items()]
    )
    every = len(claim.all_arms) * 20 * 135 / 3600  # arms without a row take as long as the others
    assert hours_left(claim, empty, pilot) == pytest.approx(every)
    row = {"arm": "fashion/nm_1of16", "overrides": " ".join(claim.cells("full")[0]), "seed": 1, "wall_seconds": 90}
    assert hours_left(claim, pd.DataFrame([row]), pilot) == pytest.approx(every - 90 / 3600)


def test_dense_networks_alone_make_no_figure_of_the_answer():
    claims = {claim.claim: claim for claim in read_claims(edition=2)}
    runs = pd.DataFrame([row(arm, seed) for arm in claims["C3"].all_arms + claims["C1"].all_arms for seed in SEEDS])
    runs = runs.drop_duplicates(["arm", "seed"])
    assert schemes([claims["C3"]], runs) == []
    assert "dense" in [each.label for each in schemes([claims["C3"], claims["C1"]], runs)]
