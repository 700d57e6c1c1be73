"""Verdicts on runs that are made up, so that every rule is seen to fire."""

import re
from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd
import pytest
import yaml

from midstate.study import verdicts
from midstate.study.claims import EDITIONS, Claim, read_claims
from midstate.study.endpoints import Endpoint
from midstate.study.measuring import Measured, margin, measure, role_swap
from midstate.study.verdicts import judge, verdict

SUPERIOR = Endpoint("a - b", "top1", "points", contrast={"a": 1, "b": -1}, expected="positive", sesoi=1.0)
CONTRAST = "  contrast:\n    x: 1\n    y: -1\n"  # as `_gated` writes it
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


def _gated(tmp_path, **gate):
    """A claim of the second edition with one gate, and cells of a pilot."""
    content = {
        "claim": "C1", "edition": 2, "title": "a", "article": "a", "english": "a",
        "endpoint": {"name": "a", "value": "top1", "unit": "points", "contrast": {"x": 1, "y": -1},
                     "expected": "positive", "sesoi": 0.5},
        "gate": [{"name": "g", "value": "top1", "unit": "points", "contrast": {"z": 1, "y": -1}, **gate}],
        "secondary": [], "arms": [], "notes": [], "changes": [], "would_change": "a",
        "scales": {"pilot": {"first_seed": 100, "seeds": 2, "cells": [["a=1"], ["a=2"]], "arms": ["y", "z"]},
                   "full": {"first_seed": 1, "seeds": 4, "cells": [[]]}},
    }  # fmt: skip
    path = tmp_path / "c1.yaml"
    path.write_text(yaml.safe_dump(content))
    return Claim.read(path)


def _rows(overrides, seeds, **arms):
    columns = {"data": "d", "model": "m", "git": "g", "overrides": overrides}
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "top1": value + 0.01 * (seed % 3), **columns}
            for arm, value in arms.items()
            for seed in seeds
        ]
    )


@pytest.mark.parametrize(
    ("x", "expected"),
    [(71.0, "supported"), (69.0, "refuted"), (70.1, "too small to matter"), (70.5 - 1e-9, "inconclusive")],
)
def test_the_second_edition_tells_small_effects_from_opposite_ones(tmp_path, x, expected):
    claim = _gated(tmp_path, at_least=2)
    noise = pd.Series([0.0, 0.04, -0.04, 0.0])  # so that an interval has a width
    runs = _rows("", range(1, 5), x=x, y=70.0)
    runs.loc[runs.arm == "x", "top1"] += noise.to_numpy()
    pilot = _rows("a=1", (100, 101), y=70.0, z=72.5)
    (result,) = judge([claim], runs, pilot)
    assert (result.verdict, result.control, result.edition) == (expected, "met", 2)


def test_gates_are_decided_by_the_first_cell_of_the_pilot_and_seeds_by_the_file(tmp_path):
    claim = _gated(tmp_path, at_least=2)
    runs = _rows("", range(1, 9), x=71.0, y=70.0)  # more seeds than were set down
    other = _rows("a=2", (100, 101), y=70.0, z=79.0)
    (result,) = judge([claim], runs, pd.concat([_rows("a=1", (100, 101), y=70.0, z=71.0), other]))
    assert (result.verdict, result.control, result.measured.seeds) == ("no power", "not met", 4)
    (result,) = judge([claim], runs, other)
    assert (result.verdict, result.control) == ("not run", "not run")


def test_nothing_is_judged_before_all_seeds_are_there(tmp_path):
    claim = _gated(tmp_path, at_least=2)
    runs = _rows("", range(1, 4), x=71.0, y=70.0)
    pilot = _rows("a=1", (100, 101), y=70.0, z=72.5)
    assert judge([claim], runs, pilot) == []
    assert [each.verdict for each in judge([replace(claim, edition=1)], runs, pilot)] == ["supported"]


@pytest.mark.parametrize(
    ("seeds", "state"), [((100,), "not run"), ((100, 101), "not met"), (range(100, 109), "not met")]
)
def test_gates_are_decided_by_the_seeds_of_the_pilot_that_were_set_down(tmp_path, seeds, state):
    claim = _gated(tmp_path, at_least=2)
    pilot = pd.concat([_rows("a=1", (each,), y=70.0, z=71.0 if each < 102 else 90.0) for each in seeds])
    (gate,) = verdicts.gates_of(claim, pilot.iloc[:0], pilot)
    assert gate.state == state
    assert gate.seeds <= 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("expected: positive", "expect: positive", "expect of endpoint 'a': not known; must be of name, value"),
        ("  expected: positive\n", "", "expected of 'a': must be positive or negative"),
        ("  sesoi: 0.5\n", "", "sesoi of 'a': must be the smallest effect that matters, in points"),
        ("  unit: points\n  value: top1\n", "  value: top1\n", "unit of endpoint 'a': missing"),
        (CONTRAST, "", "contrast or slope of 'a': missing; test=difference needs it"),
        (CONTRAST, "  of: [x, y]\n  test: slope\n", "against of 'a': missing; test=slope needs it"),
        (CONTRAST, f"{CONTRAST}  over: {{x: 0.5, y: 0.9}}\n", "over of 'a': must be left out with test=difference"),
        ("  sesoi: 0.5\n", "  test: equivalence\n", "sesoi of 'a': missing; test=equivalence needs it"),
        ("claim: C1", "claim: mine", "claim='mine': must be C and a number"),
        ("title: a\n", "titel: a\n", "titel of the claim: not known"),
    ],
)
def test_a_claim_that_could_not_be_judged_is_refused_by_file_and_field(tmp_path, old, new, message):
    _gated(tmp_path, at_least=2)
    path = tmp_path / "c1.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"^c1\.yaml: {re.escape(message)}"):
        Claim.read(path)


def test_a_gate_needs_a_bound_and_a_place_where_it_is_decided(tmp_path):
    with pytest.raises(ValueError, match="gate 'g': must have at_least or at_most"):
        _gated(tmp_path)
    with pytest.raises(ValueError, match="decided='later' of 'g': must be one of pilot, study"):
        _gated(tmp_path, at_most=1, decided="later")


def test_a_slope_within_seeds_is_over_the_ratio_of_a_measured_column():
    """The gain is 2 points a doubling of MACs in seed 1, 3 in seed 2; the reference is no point of the slope."""
    rows = pd.DataFrame(
        [
            {
                "arm": arm,
                "seed": seed,
                "top1": 50.0 + seed + slope * np.log2(ratio) + (ratio > 1),
                "macs": 100.0 * seed * ratio,
            }
            for seed, slope in ((1, 2.0), (2, 3.0))
            for arm, ratio in (("u", 1), ("a", 1.5), ("b", 2), ("c", 4))
        ]
    )
    endpoint = Endpoint("s", "top1", "", test="slope", of=("a", "b", "c"), against="macs", reference="u")
    measured = measure(endpoint, rows)
    assert measured.effect == pytest.approx(2.5)
    assert "spans a factor of 2.67" in measured.detail
    span = measure(Endpoint("s", "macs", "", test="span", of=("a", "b", "c")), rows)
    assert span.effect == pytest.approx(4 / 1.5)


def test_the_share_recovered_is_of_the_damage_against_a_dense_network_trained_as_long():
    """Dense 90; at rates 0.5, 0.7, 0.9 just pruned 80, 70, 50 and recovered 88, 82, 66: shares .8, .6, .4."""
    found = {"d": (90.0, 90.0), "a": (80.0, 88.0), "b": (70.0, 82.0), "c": (50.0, 66.0)}
    rows = pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "just_pruned": before + seed, "recovered": after + seed}
            for arm, (before, after) in found.items()
            for seed in (1, 2)
        ]
    )
    over = {"a": 0.5, "b": 0.7, "c": 0.9}
    measured = measure(Endpoint("r", "recovered", "", test="recovered_share", over=over, reference="d"), rows)
    assert measured.effect == pytest.approx(-1.0)
    assert "50 %: 0.80, 70 %: 0.60, 90 %: 0.40" in measured.detail
    damaged = Endpoint("r", "recovered", "", test="half_damage", over=over, reference="d")
    assert measure(damaged, rows).effect == 3
    easy = rows.assign(
        recovered=rows.recovered.where(rows.arm != "c", 86.0 + rows.seed)
    )  # nothing is left below a half
    assert measure(damaged, easy).effect == 0
