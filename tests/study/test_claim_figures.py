"""What claims say of their figures."""

import pandas as pd
import pytest
import yaml
from matplotlib import pyplot as plt

from midstate.study.claims import EDITIONS, Claim, read_claims
from midstate.study.drawing import Tables
from midstate.study.figures import draw


@pytest.fixture
def written(tmp_path):
    """Write a claim's file anew with other keys, and read it."""

    def write(number: int, **keys) -> Claim:
        path = tmp_path / f"c{number}.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load((EDITIONS[1] / path.name).read_text()), **keys}))
        return Claim.read(path)

    return write


def test_a_figure_changes_no_digest(written):
    (claim,) = read_claims(["C8"], edition=1)
    other = written(8, figure={"panels": [{"kind": "points", "arms": {"c8_weights": "single weights"}}]})
    assert other.digest == claim.digest
    assert other.figure != claim.figure


def test_what_is_kept_of_a_claims_runs_changes_no_digest(written):
    (claim,) = read_claims(["C8"], edition=1)
    kept = written(8, keep_losses=True)
    assert (kept.digest, kept.keep_losses) == (claim.digest, True)
    with pytest.raises(ValueError, match="keep_losses='sometimes': must be true or false"):
        written(8, keep_losses="sometimes")


@pytest.mark.parametrize(
    ("panel", "answer"),
    [
        ({"kind": "gap"}, "kind='gap' of a panel: must be one of effects, points, gaps"),
        ({"kind": "gaps", "arms": {"c8_n_1of32": ""}}, "figure of C8: c8_n_1of32: must be of its arms"),
        ({"kind": "effects", "rows": {"": {"c8_weight": 1}}}, "figure of C8: c8_weight: must be of its arms"),
    ],
)
def test_what_no_figure_can_show_is_refused(written, panel, answer):
    with pytest.raises(ValueError, match=answer):
        written(8, figure={"panels": [panel]})


def test_endpoints_that_figures_name_are_those_of_the_file():
    for claim in read_claims(edition=1):
        named = [what for panel in claim.figure.panels for what in panel.rows.values() if isinstance(what, str)]
        assert all(claim.named(what) for what in named)
    with pytest.raises(ValueError, match="'controls' in the figure of C10: must be one of 'endpoint', 'control', "):
        claim.named("controls")


def test_a_claim_without_a_figure_shows_its_endpoints(written):
    claim = written(5, figure=None)
    arms = ["c5_1of8", "c5_2of8", "c5_4of8"]
    runs = pd.DataFrame([{"arm": arm, "seed": seed, "top1": 50.0 + seed} for arm in arms for seed in range(3)])
    with plt.rc_context({"ytick.labelleft": True}):  # which tests/matplotlibrc leaves out
        figure = draw(claim, Tables(runs, runs, runs, runs))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    plt.close(figure)
    assert labels[-1] == claim.endpoint.name
