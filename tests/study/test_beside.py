"""What is shown beside endpoints, against cases worked out by hand."""

from math import nan

import numpy as np
import pandas as pd
import pytest

from midstate.study.beside import beside, epochs_to_recover, interval
from midstate.study.claims import read_claims
from midstate.study.drawing import Tables
from midstate.study.measuring import Measured


def curves(**arms):
    """Rows of epochs.csv: arm=[one list of validation top-1 a seed]."""
    return pd.DataFrame(
        [
            {"arm": arm, "overrides": "", "seed": seed, "epoch": epoch, "val/top1": value}
            for arm, seeds in arms.items()
            for seed, values in enumerate(seeds)
            for epoch, value in enumerate(values, start=1)
        ]
    )


DENSE = [[70, 80, 81], [70, 80, 81], [70, 80, 91], [70, 80, 81]]  # goals: 80, 80, 90, 80


@pytest.mark.parametrize(
    ("pruned", "expected"),
    [
        ([[80, 70, 70], [80, 81, 82], [89, 89, 90], [80, 80, 80]], (4, 4, 1)),  # once is enough; 1, 1, 3, 1
        ([[79, 80, 80], [70, 80, 81], [89, 89, 89], [79, 79, 79]], (2, 4, 2)),  # 2, 2, beyond 3, beyond 3
        ([[79, 79, 80], [70, 70, 71], [89, 89, 89], [79, 79, 79]], (1, 4, np.inf)),
        ([[0, 0, 0]] * 4, (0, 4, np.inf)),
    ],
)
def test_epochs_to_recover(pruned, expected):
    assert epochs_to_recover(curves(dense=DENSE, pruned=pruned), "pruned", "dense") == expected


def test_half_of_ten_seeds_have_a_median():
    first = [1, 1, 2, 3, 3] + [None] * 5
    pruned = [[80 if epoch == when else 0 for epoch in (1, 2, 3)] for when in first]
    assert epochs_to_recover(curves(dense=[[0, 0, 81]] * 10, pruned=pruned), "pruned", "dense") == (5, 10, 3)


def test_what_has_no_curves_has_no_number():
    assert epochs_to_recover(curves(dense=DENSE), "pruned", "dense") is None
    assert epochs_to_recover(curves(dense=DENSE, pruned=DENSE[:1]), "pruned", "dense") is None


def test_every_rate_of_c4_has_its_line_in_the_cell_of_its_runs():
    (claim,) = read_claims(["C4"], edition=1)
    arms = {"c1_dense_finetuned": DENSE, "c3_weights_uniform_30": DENSE, "c1_weights_uniform_80": [[0, 0, 0]] * 4}
    empty = pd.DataFrame(columns=["overrides"])
    lines = beside(claim, Tables(empty, curves(**arms), empty, empty))
    assert [(line.scale, line.overrides, line.value, line.seeds) for line in lines] == [
        ("quick", "", "median 2; 4 of 4 seeds recover", 4),
        ("quick", "", "median beyond the last epoch; 0 of 4 seeds recover", 4),
    ]
    assert "`c3_weights_uniform_30`, rate 0.3" in lines[0].what


def test_an_effect_is_written_as_its_row_of_six_digits_is():
    """Else README, which reads claims.csv, and the report, which has all digits, differ where a number ends in 5."""
    for effect in (3.7950000000000017, 3.7949999999999946):
        read_back = Measured(float(f"{effect:.6g}"), 1.545, 6.045, 10, 0.0)
        assert interval(Measured(effect, 1.545, 6.045, 10, 0.0)) == interval(read_back) == "+3.80 [+1.54, +6.04]"


def test_an_effect_of_one_number_has_no_interval():
    assert interval(Measured(-0.125, nan, nan, 1, nan)) == "-0.12"
    assert interval(Measured(nan, nan, nan, 0, nan)) == "–"
