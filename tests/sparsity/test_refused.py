"""Every product of the members that conf/pruner lists is built or refused with a reason of the one table."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from midstate.sparsity import (
    ERK,
    L1,
    NM,
    Blocks,
    Budget,
    Channel,
    Combinations,
    Criterion,
    DenseGradient,
    Direct,
    Domino,
    DropGrow,
    Fade,
    Filter,
    Frames,
    GeometricMedian,
    Global,
    Hard,
    LearnedCombinations,
    Method,
    MultiAxis,
    Scheme,
    Scope,
    Search,
    StepN,
    Uniform,
    Update,
    Weight,
)
from midstate.sparsity.method import AXES
from midstate.sparsity.refused import REFUSED

ROOT = Path(__file__).parents[2]
SCHEME = ROOT / "tests" / "scheme.json"


def member(axis, name):
    """A member as its file sets it."""
    content = OmegaConf.load(ROOT / "conf" / "pruner" / axis / f"{name}.yaml")
    if name == "scheme":
        content.scheme = str(SCHEME)
    node = OmegaConf.to_container(OmegaConf.create({"pruner": content}), resolve=True)["pruner"][axis]
    return instantiate(node, _convert_="all")


def members(axis):
    return [member(axis, path.stem) for path in sorted((ROOT / "conf" / "pruner" / axis).glob("*.yaml"))]


EVERY = {axis: members(axis) for axis in AXES}
SCOPES = [*members("scope"), Scope(indivisible="pad"), Scope(skip_classifier=False)]
# Settings that decide whether a product makes sense, where the files have others.
SETTINGS = {
    "criterion": [GeometricMedian(0.5)],
    "allocation": [
        Budget("random", per="filter"), Budget(levels=[1, 99]), Budget(levels=[4, 8]), Domino(levels=(1, 2)),
        Global(refresh="once"), ERK("bitops"), ERK("extracted_params"), Global(budget="extracted_macs"),
    ],
    "path": [StepN("group"), Blocks(rerank="sticky"), Frames("fine"), Frames("densify")],
    "update": [Update(regrow="never"), Update(hysteresis=0.1), Update(forced_swaps=0.1), Update(every="1ep"),
               DropGrow(grow="random")],
}  # fmt: skip


def built(scope, pattern, *others):
    """None, or the message of what was refused."""
    try:
        Method(scope, pattern, *others)
    except ValueError as error:
        return str(error)
    return None


CHANNELS = member("pattern", "channel"), member("scope", "channels")


def products():
    """All members with their files' settings, and all pairs of axes with settings that the files do not have."""
    for axes in itertools.product(*EVERY.values()):
        yield (Scope(), *axes)
    wider = {axis: [*EVERY[axis], *SETTINGS.get(axis, [])] for axis in AXES}
    usual = {
        "criterion": [L1()], "allocation": [Uniform()], "path": [Direct(), Combinations()], "update": [Update()],
        "estimator": [Hard(), LearnedCombinations()],
    }  # fmt: skip
    for one, other in itertools.combinations([axis for axis in AXES if axis != "pattern"], 2):
        chosen = {**usual, one: wider[one], other: wider[other]}
        for scope, *axes in itertools.product(SCOPES, EVERY["pattern"], *chosen.values()):
            yield (scope, *axes)
    heads = replace(CHANNELS[0], heads=True)
    for pattern, allocation in itertools.product((CHANNELS[0], heads), EVERY["allocation"]):
        yield CHANNELS[1], pattern, L1(), allocation, Direct(), Update(), Hard()
    permuted = replace(NM(2, 4), permute=True)
    for criterion, allocation in itertools.product(EVERY["criterion"], (Uniform(), Budget("random", per="filter"))):
        yield Scope(), permuted, criterion, allocation, Direct(), Update(), Hard()
    for update in (DropGrow(grow="random", initial=initial) for initial in ("random", "criterion")):
        yield Scope(), permuted, L1(), Uniform(), Direct(), update, Hard()
    yield Scope(), permuted, L1(), Uniform(), Combinations(), Update(), LearnedCombinations()
    for pattern, penalty in itertools.product(EVERY["pattern"], members("penalty")):
        yield Scope(), pattern, L1(), Uniform(), Direct(), Update(), Hard(), penalty


@pytest.mark.slow
def test_every_product_is_built_or_refused_with_a_reason_of_the_table():
    messages = {message for product in products() if (message := built(*product))}
    assert any(built(*product) is None for product in products())
    for message in messages:
        assert any(row.says(message) for row in REFUSED), message
    said = [row for row in REFUSED if any(row.says(message) for message in messages)]
    assert [row.what for row in REFUSED if row not in said] == [
        "a member whose `patterns` do not name the pattern",
        "a criterion that needs `step_gradient` without `estimator=dense_gradient`",
    ]


def test_no_file_is_left_out():
    assert {axis: len(found) for axis, found in EVERY.items()} == {
        axis: len(list((ROOT / "conf" / "pruner" / axis).glob("*.yaml"))) for axis in AXES
    }


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: re.sub(r"\W+", "_", row.what))
def test_rows_name_the_product_and_the_way_out(row):
    assert re.search(r"\w=|\w and ", row.why)
    assert not row.why.endswith(".")


class Own(Criterion):
    def score(self, layer, pattern):
        return pattern.pool(layer.weight)


def test_members_of_ones_own_say_what_they_are_for():
    def method(criterion, estimator=None, pattern=None):
        axes = (Uniform(), Direct(), Update(), estimator or Hard())
        return built(Scope(), pattern or Weight(0.5), criterion, *axes)

    own = type("Own", (Own,), {"patterns": ("filter", "nm")})()
    assert method(own) == "criterion=Own is for pattern=filter or nm, and this is pattern=weight"
    assert method(own, pattern=Filter(0.5)) is method(own, pattern=NM(1, 4)) is None
    own = type("Own", (Own,), {"needs": ("step_gradient",)})()
    assert "remembered by pruner/estimator=dense_gradient alone" in method(own)
    assert method(own, DenseGradient()) is None


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            (NM(1, 8), L1(), Scheme(str(SCHEME)), Direct(), Update(), Hard()),
            "was made for {.*}, and this run has",
        ),
        ((Channel(0.3), L1(), ERK(), Direct(), Update(), Hard()), "pattern=channel prunes channels that several"),
        (
            (Channel(0.3, heads=True), L1(), Uniform(), Direct(), Update(), Hard()),
            "skip_depthwise=True: a channel goes",
        ),
        ((NM(1, 4), L1(), Domino(), Search(), Update(every="2it"), Hard()), "every='2it': allocation=domino follows"),
        ((NM(1, 4), L1(), ERK(), Fade(), Update(forced_swaps=0.5), MultiAxis()), r"forced_swaps=0\.5: exchanges"),
    ],
)
def test_reasons_name_field_and_value(axes, message):
    assert re.search(message, built(Scope(), *axes))
