import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstate.sparsity import Schedule, Window, curve, step_n, steps_of

CURVES = ("one_shot", "linear", "cubic", "cosine", "quarter_cosine", "exponential", "asfp", "one_cycle")


@pytest.mark.parametrize("name", CURVES)
@given(x=st.floats(0, 1), y=st.floats(0, 1))
def test_curves_run_from_0_to_1_and_never_fall(name, x, y):
    f = curve(name)
    assert f(0) == 0.0
    assert f(1) == 1.0
    assert 0 <= f(x) <= 1
    assert f(min(x, y)) <= f(max(x, y))


def test_values_by_hand():
    assert curve("one_shot")(1e-9) == 1
    assert curve("linear")(0.3) == 0.3
    assert curve("cubic")(0.5) == 1 - 0.5**3
    assert curve("cosine")(0.5) == pytest.approx(0.5)
    assert curve("quarter_cosine")(0.5) == pytest.approx(1 - math.cos(math.pi / 4))
    assert curve("exponential")(0.5) == pytest.approx((1 - math.exp(-0.75)) / (1 - math.exp(-1.5)))
    assert curve("asfp")(1 / 8) == pytest.approx(0.75, abs=1e-4)  # the condition that fixes its rate
    g = [1 / (1 + math.exp(-14 * x + 6)) for x in (0, 0.25, 1)]
    assert curve("one_cycle")(0.25) == pytest.approx((g[1] - g[0]) / (g[2] - g[0]))


def test_maxq_exponential_over_30_epochs():
    # Shares of N:M blocks that MaxQ's own "exp" gives at epochs 3, 6, ... 27 of a ramp over 30.
    published = [0.182, 0.339, 0.473, 0.589, 0.689, 0.775, 0.849, 0.913, 0.968]
    f = curve("exponential")
    # MaxQ samples 30 points, the last at epoch 29.
    assert [f(e / 29) for e in range(3, 30, 3)] == pytest.approx(published, abs=0.012)


def test_unknown_curve_suggests():
    with pytest.raises(ValueError, match=r"curve='cubik'.*did you mean cubic"):
        curve("cubik")


def test_times():
    assert steps_of("t", 0.5, 10, 100) == 50
    assert steps_of("t", 1, 10, 100) == 100
    assert steps_of("t", "3ep", 10, 100) == 30
    assert steps_of("t", "1.5ep", 10, 100) == 15
    assert steps_of("t", "7it", 10, 100) == 7
    assert steps_of("t", 0.29, 10, 100) == 29  # 0.29 * 100 is 28.999999999999996


@pytest.mark.parametrize(
    "time", ["10", "ep", "-1ep", "nanep", "infit", "ten epochs", -0.1, float("nan"), None, True, []]
)
def test_bad_times_say_what_is_allowed(time):
    with pytest.raises(ValueError, match=r"t=.*(share of the run|30ep)"):
        steps_of("t", time, 10, 100)


def test_a_bare_number_above_one_names_the_spelling_in_epochs():
    with pytest.raises(ValueError, match="30ep"):
        steps_of("stop", 30, 10, 100)


def test_window():
    window = Window("linear", 10, 20)
    assert [window.progress(t) for t in (0, 9, 10, 15, 20, 99)] == [0, 0, 0, 0.5, 1, 1]
    assert Window("linear", 0, 0).progress(0) == 1  # stop is checked first
    assert Window("one_shot", 5, 5).progress(4) == 0
    assert Window("one_shot", 5, 5).progress(5) == 1


def test_windows_that_cannot_reach_the_target_are_refused():
    with pytest.raises(ValueError, match="must not lie before start"):
        Schedule("linear", 0.5, 0.25).window(10, 100)
    with pytest.raises(ValueError, match="after the run's end"):
        Schedule("linear", 0, "11ep").window(10, 100)
    assert Schedule("linear", 0.1, "10ep").window(10, 100) == Window("linear", 10, 100)


def test_step_n_as_maxq_counts_it():
    # 1:16, linear over 30 epochs, every third epoch.
    assert [step_n(1, 16, e / 30) for e in range(0, 31, 3)] == [16, 15, 13, 12, 10, 9, 7, 6, 4, 3, 1]
    assert [step_n(2, 4, p) for p in (0, 0.49, 0.5, 0.99, 1)] == [4, 4, 3, 3, 2]
    assert step_n(4, 4, 0.5) == 4


@given(m=st.integers(1, 32), data=st.data(), p=st.floats(0, 1), q=st.floats(0, 1))
def test_step_n_never_rises_and_ends_at_n(m, data, p, q):
    n = data.draw(st.integers(1, m))
    assert step_n(n, m, 0) == m
    assert step_n(n, m, 1) == n
    assert step_n(n, m, min(p, q)) >= step_n(n, m, max(p, q))
