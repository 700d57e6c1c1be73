"""Verdicts on runs that are made up, so that every rule is seen to fire."""

from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd
import pytest

from midstate.study import verdicts
from midstate.study.claims import EDITIONS, Claim, read_claims
from midstate.study.endpoints import Endpoint
from midstate.study.measuring import Measured, margin, measure, role_swap
from midstate.study.verdicts import judge, verdict

SUPERIOR = Endpoint("a - b", "top1", "points", contrast={"a": 1, "b": -1}, expected="positive", sesoi=1.0)
WITHIN = replace(SUPERIOR, test="equivalence", sesoi=0.5)


def runs(**arms: list[float]) -> pd.DataFrame:
    rows = [
        {"arm": arm, "overrides": "", "seed": seed, "top1": value, "data": "clutter", "model": "resnet8", "git": "abc"}
        for arm, values in arms.items()
        for seed, value in enumerate(values)
        if value is not None
    ]
    return pd.DataFrame(rows)


def test_a_contrast_is_made_within_each_seed():
    # Differences 1, 2, 3: mean 2, sd 1, t interval 2 +- 4.303 / sqrt(3).
    found = measure(SUPERIOR, runs(a=[11.0, 22.0, 33.0], b=[10.0, 20.0, 30.0]))
    assert (found.effect, found.seeds) == (2, 3)
    assert (found.low, found.high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3)
    assert found.correlation == pytest.approx(1)


def test_only_seeds_that_have_every_arm_count():
    assert measure(SUPERIOR, runs(a=[11.0, 22.0, 33.0], b=[10.0, None, 30.0])).seeds == 2
    assert measure(SUPERIOR, runs(a=[11.0, 22.0, 33.0], b=[10.0])) is None
    assert measure(SUPERIOR, runs(a=[11.0, 22.0, 33.0])) is None


def test_a_slope_is_least_squares_over_the_rates():
    endpoint = Endpoint("s", "top1", "points", slope={"a": 0.5, "b": 0.7, "c": 0.9}, reference="d")
    rows = runs(a=[80.0, 79.0], b=[70.0, 75.0], c=[40.0, 60.0], d=[85.0, 84.0])
    # np.polyfit of the deficits of each seed.
    slopes = [
        np.polyfit([0.5, 0.7, 0.9], [85 - 80, 85 - 70, 85 - 40], 1)[0],
        np.polyfit([0.5, 0.7, 0.9], [5, 9, 24], 1)[0],
    ]
    assert measure(endpoint, rows).effect == pytest.approx(np.mean(slopes))
    assert measure(endpoint, runs(a=[80.0, 79.0], b=[70.0, 75.0], c=[40.0, 60.0])) is None  # no reference


@pytest.mark.parametrize(
    ("effect", "low", "high", "expected"),
    [
        (2.0, 0.5, 3.5, "supported"),
        (0.9, 0.5, 1.3, "inconclusive"),  # on the right side, but smaller than what is of interest
        (2.0, -0.1, 4.1, "inconclusive"),
        (-2.0, -3.0, -0.1, "refuted"),  # on the other side
        (0.0, -0.9, 0.9, "refuted"),  # wholly inside
        (0.5, 0.1, 0.9, "refuted"),  # wholly inside, though on the right side
        (0.0, -1.1, 0.9, "inconclusive"),
    ],
)
def test_rules_of_a_difference(effect, low, high, expected):
    measured = Measured(effect, low, high, 5, nan)
    assert verdict(SUPERIOR, measured, 1.0, "shown") == expected
    mirrored = Measured(-effect, -high, -low, 5, nan)
    assert verdict(replace(SUPERIOR, expected="negative"), mirrored, 1.0, "shown") == expected
    for control in ("not shown", "not run"):
        assert verdict(SUPERIOR, measured, 1.0, control) == "no power"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, -0.1, 0.05, -0.05, 0.0], "supported"),
        ([1.0, 1.1, 0.9, 1.05, 0.95], "refuted"),
        ([-1.0, -1.1, -0.9, -1.05, -0.95], "refuted"),
        ([2.0, -2.0, 1.0, -1.0, 0.0], "inconclusive"),
    ],
)
def test_rules_of_equivalence(values, expected):
    found = measure(WITHIN, runs(a=[50 + value for value in values], b=[50.0] * 5))
    assert verdict(WITHIN, found, 0.5, "shown") == expected
    assert found.equivalent == (expected == "supported")


@pytest.mark.parametrize(("gain", "bound"), [(1.0, 0.25), (3.0, 0.5)])
def test_a_margin_is_bounded_by_a_share_of_what_could_be_gained(gain, bound):
    endpoint = replace(WITHIN, scaled_by={"contrast": {"c": 1, "b": -1}, "share": 0.25, "at_least": 1.0})
    rows = runs(a=[50.0, 51.0], b=[50.0, 51.0], c=[50 + gain, 51 + gain])
    assert margin(endpoint, rows) == pytest.approx(bound)
    small = runs(a=[50.0, 51.0], b=[50.0, 51.0], c=[50.5, 51.5])
    assert margin(endpoint, small) == 0
    assert verdict(endpoint, measure(endpoint, small), margin(endpoint, small), "shown") == "no power"


def test_share_within_counts_cells_not_seeds():
    endpoint = Endpoint("s", "top1", "share", test="share_within", pairs={"a": "u", "b": "u", "c": "v"}, sesoi=0.5)
    # Mean differences 0.4, 2 and -1: one of three is smaller than 0.5, one above, one below.
    rows = runs(a=[50.0, 50.8], u=[50.0, 50.0], b=[52.0, 52.0], c=[59.0, 59.0], v=[60.0, 60.0])
    found = measure(endpoint, rows)
    assert found.effect == pytest.approx(1 / 3)
    assert found.detail == "of 3 cells 1 above, 1 below"


def test_arms_are_left_out_where_they_make_no_sense():
    claim = next(claim for claim in read_claims(["C5"], edition=1))
    assert "c5_deep_down" in claim.arms_in(("data=digits",))
    assert "c5_deep_down" not in claim.arms_in(("data=cifar100", "model=resnet18"))


def test_what_no_run_has_yet_is_not_measured():
    claim = next(claim for claim in read_claims(["C8"], edition=1))
    rows = runs(c9_one_shot=[1.0, 2.0]).rename(columns={"top1": "gap_last"})
    assert {result.endpoint for result in judge([claim], rows)} == {claim.control.name}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (lambda s: 80 - 0.5 * np.exp(4.5 * s), "supported"),
        (lambda s: 80 / (1 + np.exp(20 * (s - 0.9))), "refuted"),
    ],
)
def test_rules_of_curves(curve, expected):
    claim = next(claim for claim in read_claims(["C3"], edition=1))
    draws = np.random.default_rng(1)
    arms = {
        arm: [float(curve(np.array(rate)) + draws.normal(0, 0.3)) for _ in range(5)]
        for arm, rate in claim.endpoint.over.items()
    }
    (primary,) = [result for result in judge([claim], runs(**arms)) if result.verdict and result.scale == "quick"]
    assert (primary.verdict, primary.control) == (expected, "shown")


def test_every_claim_reads_and_names_each_arm_once():
    claims = read_claims(edition=1)
    assert [claim.claim for claim in claims] == [f"C{number}" for number in range(1, 11)]
    for claim in claims:
        assert len(claim.all_arms) == len(set(claim.all_arms))
        assert claim.endpoint.expected or claim.endpoint.test == "equivalence"
        assert claim.endpoint.sesoi > 0
        assert claim.control.sesoi > 0
        for endpoint in (claim.endpoint, claim.control, *claim.secondary):
            sides = [endpoint.weights[arm] for arm in endpoint.weights]
            plus, minus = sum(w for w in sides if w > 0), -sum(w for w in sides if w < 0)
            # What is compared is compared in equal parts; one arm alone is a value, not a difference.
            assert len(sides) <= 1 or plus == pytest.approx(minus), endpoint.name


def test_unknown_claims_are_refused():
    with pytest.raises(ValueError, match=r"only=C11: must be of C1, C2"):
        read_claims(["C11"], edition=1)


def test_a_digest_follows_what_decides_and_not_the_prose(tmp_path):
    path = tmp_path / "c8.yaml"
    text = (EDITIONS[1] / "c8.yaml").read_text()
    path.write_text(text)
    same = Claim.read(path).digest
    assert same == Claim.read(EDITIONS[1] / "c8.yaml").digest
    path.write_text(text.replace("would_change: >-", "would_change: >-\n  Also this."))
    assert Claim.read(path).digest == same
    path.write_text(text.replace("sesoi: 2.0", "sesoi: 1.0", 1))
    assert Claim.read(path).digest != same


def test_roles_are_swapped_where_the_order_of_two_layers_reverses():
    def table(arm, seed, rises):
        return [
            {"arm": arm, "seed": seed, "kind": "share", "layer": f"l{i}", "loss_rise": rise}
            for i, rise in enumerate(rises)
        ]

    rows = pd.DataFrame(
        [
            *table("a", 0, [1, 2, 3]),
            *table("a", 1, [1, 2, 3]),
            *table("b", 0, [2, 1, 3]),  # one pair of three
            *table("b", 1, [3, 2, 1]),  # all three
        ]
    )
    assert role_swap(rows, "a", "b").effect == pytest.approx((1 / 3 + 1) / 2)
    assert role_swap(rows, "a", "a").effect == 0
    assert role_swap(rows, "b", "b").effect == pytest.approx(2 / 3)  # 2 1 3 against 3 2 1 and back
    assert role_swap(rows, "a", "c") is None


def test_rows_of_claims_csv_have_the_columns_of_the_contract():
    claim = next(claim for claim in read_claims(["C8"], edition=1))
    values = {arm: [1.0, 2.0] for arm in claim.all_arms}
    rows = runs(**values).rename(columns={"top1": "gap_last"})
    rows[["gap_max", "gap_raw_last", "gap_last_excess"]] = 1.0
    assert all(tuple(result.row) == verdicts.COLUMNS for result in judge([claim], rows))
