"""Single weights on the staircase of N: the same densities at the same steps, and gaps probed at the same jumps."""

from pathlib import Path

import pytest
import torch
from conftest import composed, table, tiny
from torch import nn

from midstate.common.errors import ConfigError
from midstate.config.compose import compose_root
from midstate.config.values import check_values
from midstate.data import Split
from midstate.engine.probes import GapProbe
from midstate.runs.plan import Plan
from midstate.sparsity import (
    L1,
    NM,
    SRSTE,
    Density,
    Filter,
    LayerView,
    Method,
    Pruner,
    Row,
    Schedule,
    Scope,
    StepN,
    Uniform,
    Update,
    Weight,
)

STEPS = 103  # of a window of .75 no state begins at a whole step
N = (NM(1, 16), StepN())
WEIGHTS = (Weight(0.9375), Density(states=15))


def pruned(pattern, path, schedule) -> tuple[nn.Module, Pruner]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 32, 3), nn.Flatten(), nn.Linear(32, 48, bias=False), nn.Linear(48, 10))
    method = Method(Scope(False, False), pattern, L1(), Uniform(), path, Update(), SRSTE())
    return model, Pruner(model, method, schedule, 10, STEPS)


def walked(pattern, path, schedule) -> tuple[list[list[float]], list[tuple]]:
    """Density of every layer at every step, and the jumps that were probed."""
    model, pruner = pruned(pattern, path, schedule)
    images = torch.randn(20, 16, 3, 3, generator=torch.Generator().manual_seed(1))
    split = Split(images, torch.arange(20) % 10)
    probe, densities, jumps = GapProbe(model, pruner, split, split), [], []
    for step in range(STEPS + 1):
        row = probe.before_refresh(step)
        pruner.tick(step)
        densities.append(pruner.kept())
        jumps += [(row["step"], row["from"], row["to"], row["progress"])] if row else []
    return densities, jumps


@pytest.mark.parametrize("curve", ["linear", "cubic", "cosine", "one_cycle", "one_shot"])
def test_densities_and_probes_are_those_of_n_at_every_step(curve):
    schedule = Schedule(curve, 0.05, 0.75)
    densities, jumps = walked(*N, schedule)
    assert walked(*WEIGHTS, schedule) == (densities, jumps)
    assert densities[-1] == [1 / 16] * 3
    assert jumps[-1][2:] == (15, 1.0)
    if curve == "linear":
        assert [jump[1:3] for jump in jumps] == [(k, k + 1) for k in range(15)]
        assert {density for (density, *_) in densities} == {k / 16 for k in range(1, 17)}


def test_states_by_hand():
    def kept(path, p, pattern, shape=(16, 5), level=None) -> int:
        place = LayerView(torch.randn(shape), score_of=lambda layer: pattern.pool(layer.weight.abs()))
        level = level or pattern.target(torch.Size(shape))
        place = LayerView(place.parameter, level=level, score_of=place.score_of)
        return int(path.masks(pattern, [place], p)[0].sum())

    path = Density(states=4)
    # A quarter of the way at a time: 80 -> 16 of weights in steps of 16, 16 -> 12 of filters one by one.
    assert [kept(path, p, Weight(0.8)) for p in (0, 0.24, 0.25, 0.49, 0.5, 0.75, 0.99, 1)] == [
        *(80, 80, 64, 64, 48, 32, 32, 16)
    ]
    assert [kept(path, p, Filter(0.25)) for p in (0.2, 0.3, 0.6, 0.8, 1)] == [16, 15, 14, 13, 12]
    assert [kept(path, p, Row(0.8)) for p in (0.2, 0.6, 1)] == [80, 48, 16]
    # A level of its own, as a non-uniform allocation gives it: every layer jumps at the same progress.
    assert [kept(path, p, Weight(0.8), level=40) for p in (0.2, 0.3, 0.6, 0.9, 1)] == [80, 70, 60, 50, 40]
    assert [kept(Density(states=1), p, Weight(0.8)) for p in (0.5, 0.99, 1)] == [80, 80, 16]
    # k / 15 in floating point is never the state before.
    assert [kept(Density(states=15), k / 15, Weight(0.9375), (16,)) for k in range(16)] == list(range(16, 0, -1))
    assert path.describe(Weight(0.8), "20 % of weights", 0.6) == "50 % of the way to 20 % of weights"


def test_without_states_gaps_are_probed_at_sixteen_places():
    _, free = pruned(Weight(0.9375), Density(), Schedule("linear", 0, 1.0))
    _, few = pruned(*WEIGHTS, Schedule("linear", 0, 1.0))
    assert (free.method.num_jumps, few.method.num_jumps) == (16, 15)
    assert (len(free.states()), len(few.states())) == (17, 16)


@pytest.mark.slow
def test_runs_of_both_have_their_probes_at_the_same_steps(tmp_path):
    found = []
    alike = ("schedule=linear", "pruner.every=1it", "pruner/scope=default", "pruner.regrow=free")
    for name, pruner in (
        ("n", ("pruner=nm_step",)),
        ("weights", ("pruner=magnitude", "pruner.sparsity=.9375", "pruner.states=15")),
    ):
        directory: Path = tmp_path / name
        tiny(directory, *pruner, *alike, "trainer.probes=true", "trainer.probe_images=20", "trainer.epochs=3")
        probes, epochs = table(directory / "probes.csv"), table(directory / "metrics.csv")
        rows = [tuple(row[key] for key in ("step", "progress", "from", "to")) for row in probes]
        found.append((rows, [row["kept"] for row in epochs]))
    assert found[0] == found[1]
    assert found[0][0][-1][-1] == "15"


def test_states_are_part_of_a_runs_identity_where_there_are_any():
    plain, none, few = (
        Plan.of(composed("pruner=magnitude", *more)).hash
        for more in ((), ("pruner.states=null",), ("pruner.states=15",))
    )
    assert plain == none != few


@pytest.mark.parametrize("number", ["0", "-3", "1.5", "many", "true"])
def test_states_that_cannot_be_are_refused_before_anything_is_built(number):
    with pytest.raises(ConfigError, match=r"pruner\.states=.*: must be a whole number, 1 or more"):
        check_values(compose_root(["pruner=magnitude", f"pruner.states={number}"], return_hydra_config=True))
