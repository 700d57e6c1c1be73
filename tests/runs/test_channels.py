"""Coupled channels in real runs: trained, verified, counted and cut out."""

import json

import pytest
from conftest import composed, tiny

from extract import main
from midstate.common.errors import ConfigError
from midstate.runs.plan import Plan

SHORT = ("data=clutter", "pruner=channel", "model=resnet20", "trainer.epochs=1", "trainer.max_steps_per_epoch=2")


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ("pruner/allocation=global", "pruner.combine=sum", "schedule=linear")])
def test_a_run_of_two_steps(tmp_path, overrides, capsys):
    summary = tiny(tmp_path / "run", *SHORT, "pruner.sparsity=0.5", "pruner/path=direct", *overrides)
    assert summary["pattern_verified"]
    kept = {layer["name"]: round(layer["kept"] * layer["shape"][0]) for layer in summary["layers"]}
    assert kept == json.loads((tmp_path / "run" / "scheme.json").read_text())["levels"]
    joined = ["conv1", *(f"stages.0.{i}.conv2" for i in range(3))]  # by the sums of the first stage
    assert len({kept[name] for name in joined}) == 1
    if not overrides:
        assert set(kept.values()) == {8, 16, 32}
        assert summary["params_sparse"] < 0.27 * summary["params_total"]
    assert main([str(tmp_path / "run")]) == 0
    assert f"{summary['params_sparse']:,}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("pruner/allocation=erk",), "pattern=channel prunes channels that several layers share"),
        (("pruner=filter", "pruner/pattern=channel"), "pattern=channel with skip_shortcuts=True"),
        (("pruner.combine=median",), "combine='median'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(overrides, message):
    with pytest.raises(ConfigError, match=message):
        Plan.of(composed(*SHORT, *overrides))
