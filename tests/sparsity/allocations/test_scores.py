"""Scores from a file: interpolated, identified by content, and refused where they are of something else."""

import pytest
import torch
from torch import nn

from midstate.quantization import Bits
from midstate.sparsity import NM, Budget, LayerView
from midstate.sparsity.allocations.scores import COLUMNS, Scores
from midstate.sparsity.patterns.filter import Filter
from midstate.sparsity.patterns.row import Row
from midstate.sparsity.patterns.weight import Weight

ROWS = (
    ("a", 64, "nm", 1, 4, 0.9),
    ("a", 64, "nm", 2, 4, 0.4),
    ("a", 64, "weights", 16, 64, 0.8),
    ("a", 64, "weights", 0, 64, 2.0),
    ("a", 64, "filters", 4, 8, 0.5),
    ("a", 64, "bits", 2, 32, 0.6),
    ("a", 64, "bits", 8, 32, 0.0),
    ("a", 64, "input_bits", 2, 32, 1.0),
    ("a", 64, "input_bits", 8, 32, 0.1),
    ("b", 64, "nm", 1, 4, 0.1),
)


def write(path, rows=ROWS, columns=COLUMNS):
    path.write_text("\n".join(",".join(map(str, row)) for row in (columns, *rows)) + "\n")
    return str(path)


@pytest.fixture
def scores(tmp_path):
    return Scores.read(write(tmp_path / "scores.csv"))


def view(name="a", shape=(8, 8)):
    return LayerView(nn.Parameter(torch.ones(shape)), name=name)


@pytest.mark.parametrize(
    ("pattern", "levels", "expected"),
    [
        (NM(2, 4), [1, 2, 3, 4], [0.9, 0.4, 0.2, 0]),
        (Weight(0.5), [8, 16, 40, 64], [1.4, 0.8, 0.4, 0]),
        (Filter(0.5), [2, 4, 6, 8], [1.25, 0.5, 0.25, 0]),  # an emptied layer is measured among the weights
        (Bits(4, None), [2, 5, 8], [0.6, 0.3, 0]),
        (Bits(4, 4, pairs=True), [(2, 2), (8, 5), (5, 8)], [1.6, 0.55, 0.4]),
    ],
)
def test_losses_lie_between_those_that_were_measured(scores, pattern, levels, expected):
    assert scores.losses(pattern, view(), levels) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pattern", "layer", "levels", "message"),
    [
        (NM(2, 4), view("c"), [1], "of another network: c is not in it"),
        (NM(2, 4), view("a", (8, 4)), [1], "of another network: a 64 weights there, 32 here"),
        (NM(2, 8), view(), [1], "has no nm of m=8 of a"),
        (Filter(0.5), view("b"), [1], "has no filters of b"),
        (Bits(4, None, (1, 2)), view(), [1], "a is measured down to bits 2, and 1 is asked for"),
        (Row(0.5), view(), [1], "pattern=row is not measured"),
    ],
)
def test_what_the_table_has_not_got_is_refused(scores, pattern, layer, levels, message):
    with pytest.raises(ValueError, match=message):
        scores.losses(pattern, layer, levels)


def test_a_budget_goes_where_the_table_says(tmp_path):
    rows = [(name, 64, "nm", n, 4, loss) for name, by_n in LOSSES.items() for n, loss in by_n.items()]
    budget = Budget(score="file", scores=write(tmp_path / "scores.csv", rows), levels=(1, 2, 3))
    layers = [view("a"), view("b")]
    budget.check_layers(NM(2, 4), layers)
    assert budget.allocate(NM(2, 4), layers) == [3, 1]
    with pytest.raises(ValueError, match="of another network: c"):
        budget.check_layers(NM(2, 4), [view("c")])


LOSSES = {"a": {1: 5.0, 2: 3.0, 3: 0.1}, "b": {1: 0.3, 2: 0.2, 3: 0.1}}


def test_the_content_identifies_a_table_whatever_its_place_and_its_layout(tmp_path, scores):
    more = [(*row, "x") for row in ROWS]
    assert Scores.read(write(tmp_path / "other.csv", more, (*COLUMNS, "note"))).digest() == scores.digest()
    changed = [*ROWS[:-1], (*ROWS[-1][:-1], 0.2)]
    assert Scores.read(write(tmp_path / "changed.csv", changed)).digest() != scores.digest()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score": "file"}, "needs a table"),
        ({"scores": "x.csv"}, "only score=file reads scores"),
        ({"score": "file", "scores": "nowhere.csv"}, "cannot be read"),
    ],
)
def test_a_budget_refuses_half_of_it(settings, message):
    with pytest.raises(ValueError, match=message):
        Budget(**settings)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must have the columns layer, params"):
        Scores.read(write(tmp_path / "a.csv", [(1, 2)], ("x", "y")))
    with pytest.raises(ValueError, match="a row is not readable"):
        Scores.read(write(tmp_path / "b.csv", [("a", 64, "nm", 1, 4, "nan")]))
