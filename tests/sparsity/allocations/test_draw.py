"""Several random schemes of one seed."""

import pytest
import torch
from conftest import composed
from test_slack import layers_of

from midstate.common.errors import ConfigError
from midstate.config.compose import compose_root
from midstate.config.values import check_values
from midstate.runs.plan import Plan
from midstate.sparsity import NM, Budget
from midstate.sparsity.allocations.fitting import compare_with_uniform

LEVELS = (1, 2, 4, 8)
RANDOM = ("pruner=nm_mixed", "pruner.score=random")


def schemes(per: str, draws: range) -> list[tuple]:
    """The schemes of some draws, each as a tuple."""
    found = []
    for draw in draws:
        allocation = Budget("random", LEVELS, "both", per, slack=0.02, draw=draw)
        levels = allocation.allocate(NM(2, 8), layers_of())
        compared = compare_with_uniform(NM(2, 8), layers_of(), levels)
        assert all(0 <= compared[f"{kind}_slack"] <= 0.02 for kind in ("params", "macs"))
        again = allocation.allocate(NM(2, 8), layers_of())
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(levels, again, strict=True))
        found.append(tuple(torch.as_tensor(level).flatten().tolist() for level in levels))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("per", "fewest"), [("layer", 3), ("filter", 8)])
def test_draws_of_one_seed_differ_and_each_is_the_same_at_every_call(per, fewest):
    found = schemes(per, range(8))
    assert len({str(each) for each in found}) >= fewest  # six layers at both costs have few schemes
    assert found[1:3] == schemes(per, range(1, 3))


@pytest.mark.parametrize("per", ["layer", "filter"])
def test_the_first_draw_is_the_one_there_was(per):
    layers = layers_of()
    wishes = {layer.index: torch.rand(3, generator=layer.generator("allocation")).tolist() for layer in layers}
    for draw, same in ((0, True), (1, False)):
        allocation = Budget("random", LEVELS, per=per, draw=draw)
        drawn = {layer.index: torch.rand(3, generator=allocation._generator(layer)).tolist() for layer in layers}
        assert (drawn == wishes) == same
    default = Budget("random", LEVELS, per=per).allocate(NM(2, 8), layers)
    zero = Budget("random", LEVELS, per=per, draw=0).allocate(NM(2, 8), layers)
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(default, zero, strict=True))


def test_a_draw_is_part_of_a_runs_identity_but_for_the_first():
    plain, zero, one, two = (
        Plan.of(composed(*RANDOM, *more)) for more in ((), ("pruner.draw=0",), ("pruner.draw=1",), ("pruner.draw=2",))
    )
    assert plain.hash == zero.hash
    assert len({zero.hash, one.hash, two.hash}) == 3
    assert two.parts.method.allocation.draw == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((*RANDOM, "pruner.draw=-1"), "pruner.draw=-1: must be a whole number, 0 or more"),
        ((*RANDOM, "pruner.draw=1.5"), "pruner.draw=1.5: must be a whole number, 0 or more"),
        (
            ("pruner=nm_mixed", "pruner.draw=1"),
            "pruner.draw=1: score=sensitivity draws nothing; use 0, or score=random",
        ),
    ],
)
def test_draws_without_meaning_are_refused_before_anything_is_built(settings, message):
    with pytest.raises(ConfigError) as refused:
        check_values(compose_root(settings, return_hydra_config=True))
    assert str(refused.value) == message
