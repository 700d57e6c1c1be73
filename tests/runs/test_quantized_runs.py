"""Runs with a quantizer, from the command line's configuration to the directory."""

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY, composed, table, tiny

from midstate.common.errors import ConfigError
from midstate.engine.evaluate import evaluate
from midstate.models import load_weights
from midstate.quantization import STE, Jump, Quantization, Scope, Uniform
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session
from midstate.sparsity import Uniform as Same

HAQ = ("quantizer=haq", "quantizer.trial_images=128", "quantizer.held_out=128", "quantizer.trial_steps=2")
SCHEME = ("quantizer=uniform", "quantizer/allocation=scheme")
SHORT = ("trainer.epochs=2", "optimizer.lr=0.01")


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dense")
    tiny(directory, "pruner=dense")
    return f"model.checkpoint={directory}/checkpoints/final.pt"


def top1_of_file(directory, *overrides):
    """Top-1 on test data of a plain network with what final.pt holds, and nothing else."""
    session = build_session(Plan.of(composed(*TINY, "pruner=dense", f"run_dir={directory}/elsewhere", *overrides)))
    load_weights(session.model, directory / "checkpoints" / "final.pt")
    return evaluate(session.model, session.data.test)["top1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("quantizer=uniform", "quantizer.weight_bits=4"),
        ("quantizer=uniform", "quantizer.per_channel=true", "quantizer.activation_bits=null"),
        ("quantizer=kmeans", "quantizer.weight_bits=2"),
        ("quantizer=lsq", "quantizer.first_bits=null", "quantizer.exclude=[stages.0.*]"),
        (
            "quantizer=ddq",
            "quantizer/activation=ddq",
            "quantizer.max_bits=4",
            "quantizer.activation_max_bits=4",
            "quantizer.activation_bits=3",
            "quantizer.weight_bits=3",
        ),
    ],
)
def test_the_file_alone_answers_as_the_summary_says(tmp_path, dense, overrides):
    summary = tiny(tmp_path, dense, *SHORT, *overrides, "machine.figures=true")
    assert "since a mask zeroed them" not in (tmp_path / "report.html").read_text()
    assert summary["quantization"]["verified"]
    assert summary["pruner"] == "dense"
    assert top1_of_file(tmp_path) == summary["top1"]
    state = torch.load(tmp_path / "checkpoints" / "final.pt", weights_only=True)["model"]
    inputs = {name.rpartition(".")[0] for name in state if ".input_quantizer." in name}
    assert bool(inputs) == (summary["quantization"]["activation_bits"] is not None)
    rows = table(tmp_path / "bits.csv")
    assert [row["layer"] for row in rows if row["epoch"] == "2"] == list(summary["quantization"]["layers"])
    assert json.loads((tmp_path / "scheme.json").read_text())["bits"]


def test_pruned_and_quantised(tmp_path, dense):
    summary = tiny(tmp_path, dense, *SHORT, "quantizer=lsq", "pruner=nm_block", "pruner.n=2", "pruner.m=4")
    assert (summary["pattern_verified"], summary["quantization"]["verified"]) == (True, True)
    scheme = json.loads((tmp_path / "scheme.json").read_text())
    assert set(scheme["levels"].values()) == {2}
    assert set(scheme["bits"]) == set(scheme["levels"])
    size = summary["quantization"]["bytes"]
    assert size["indices"] == summary["params_prunable"] // 2 * 2 // 8  # 2 bits say which of 4
    assert size["total"] == size["values"] + size["indices"] < size["dense"] / 8
    # The same scheme again: N from the one section, bits from the other.
    again = tmp_path / "again"
    words = ("quantizer/allocation=scheme", f"quantizer.scheme={tmp_path}/scheme.json", "pruner/allocation=scheme")
    words += (f"pruner.scheme={tmp_path}/scheme.json",)
    other = tiny(again, dense, *SHORT, "quantizer=lsq", "pruner=nm_block", "pruner.n=2", "pruner.m=4", *words)
    assert other["quantization"]["layers"] == summary["quantization"]["layers"]


@pytest.mark.slow
def test_bits_step_down_and_gaps_are_probed(tmp_path, dense):
    words = (
        "quantizer=lsq",
        "quantizer/path=bits",
        "quantizer.path_bits=6",
        "schedule=linear",
        "schedule.stop=0.5",
        "trainer.probes=true",
    )
    summary = tiny(tmp_path, dense, *words, "quantizer.weight_bits=3")
    assert len(summary["states"]) == 5  # 32 bits, then 6, 5, 4, 3 of weights
    probes = table(tmp_path / "probes.csv")
    assert probes[0]["from"] == "0"
    assert probes[-1]["to"] == "4"
    bits = [int(row["weight_bits"]) for row in table(tmp_path / "bits.csv") if row["layer"] == "stages.1.0.conv1"]
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] == 3


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, dense):
    for words in (
        ("quantizer=lsq", "pruner=nm", "pruner.n=2", "pruner.m=4"),
        ("quantizer=ddq", "quantizer.gate_lr=20"),
    ):
        whole = tiny(tmp_path / f"{words[0]}-whole", dense, *SHORT, *words)
        place = tmp_path / f"{words[0]}-parts"
        with pytest.raises(SystemExit) as stopped:
            stop_after(place, 7, dense, *SHORT, *words)
        assert stopped.value.code == 75
        parts = tiny(place, dense, *SHORT, *words)
        assert parts["loss"] == whole["loss"]
        first, second = (
            torch.load(each / "checkpoints" / "final.pt", weights_only=True)["model"]
            for each in (tmp_path / f"{words[0]}-whole", place)
        )
        assert all(torch.equal(first[name], second[name]) for name in first)


def stop_after(place, steps, *overrides):
    """Run until a signal comes, which is before step `steps`."""
    import os
    import signal

    from midstate.engine import step as engine

    counted, real = [], engine._update

    def counting(session):
        counted.append(1)
        if len(counted) == steps:
            assert callable(signal.getsignal(signal.SIGTERM)), "it would end the tests' own process"
            os.kill(os.getpid(), signal.SIGTERM)
        real(session)

    engine._update = counting
    try:
        tiny(place, *overrides)
    finally:
        engine._update = real


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("quantizer=uniform", "quantizer.weight_bits=9"), "quantizer.weight_bits=9"),
        (("quantizer=kmeans", "quantizer.weight_bits=0"), "quantizer.weight_bits=0"),
        ((*HAQ, "quantizer.target=0.001"), "the lowest levels cost"),
        (HAQ, "tries schemes on trained weights"),
        (("quantizer=haq", "quantizer.budget=energy"), "quantizer.budget='energy'"),
        (("quantizer=ddq", "quantizer/allocation=haq"), "finds the bits itself"),
        (("quantizer=uniform", "quantizer.target=0.1"), "quantizer.target=0.1"),
        (("quantizer=uniform", "+quantizer.max_bits=4"), "no axis of this quantizer reads it"),
        (("quantizer=lsq", "quantizer.exclude=[head]"), "matches no layer"),
        (("quantizer=lsq", "quantizer/grid=kmeans"), "estimator=LSQ is for grid=uniform"),
        (("quantizer=uniform", "pruner=maxq"), "scales kept weights"),
        (("quantizer=ddq", "trainer.precision=fp16"), "trainer.precision=fp16"),
        (("quantizer=ddq", "quantizer.budget=bitops", "quantizer.target=0.3"), "counts the bits of weights"),
        (("quantizer=ddq", "quantizer.target=0.03"), "the lowest levels cost"),
        (("quantizer=uniform", "quantizer/allocation=random", "quantizer.target=0.03"), "allocation"),
        (
            (
                "quantizer=uniform",
                "quantizer/allocation=budget",
                "quantizer.target=0.1",
                "quantizer.exclude=[stages.*]",
            ),
            "target=0.1: all layers have fixed bits, which cost more size than that",
        ),
        (("quantizer=uniform", "quantizer/allocation=random", "quantizer.levels=[2,8]"), "quantizer.levels=[2, 8]"),
        (("quantizer=uniform", "quantizer.first_bits=1"), "quantizer.first_bits=1"),
        (("quantizer=kmeans", "quantizer.last_bits=1", "quantizer.activation_bits=8"), "quantizer.last_bits=1"),
        (
            ("quantizer=uniform", "quantizer/allocation=scheme", "quantizer.scheme=no.json"),
            "quantizer: scheme='no.json'",
        ),
    ],
)
def test_refused_before_anything_is_written(tmp_path, words, message):
    with pytest.raises(ConfigError) as refused:
        tiny(tmp_path / "run", *words)
    assert message in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_quantizer_is_the_run_it_was():
    first, second = composed(*TINY), composed(*TINY, "quantizer=lsq", "~quantizer")
    assert Plan.of(first).hash == Plan.of(second).hash


def scheme(path, bits):
    path.write_text(json.dumps({"bits": bits}))
    return str(path)


def test_what_a_scheme_holds_counts_and_not_its_place(tmp_path):
    word = ("quantizer=uniform", "quantizer/allocation=scheme")
    four, six = {"a": 4}, {"a": 6}
    places = (scheme(tmp_path / "a.json", four), scheme(tmp_path / "b.json", four), scheme(tmp_path / "c.json", six))
    first, same, other = (Plan.of(composed(*TINY, *word, f"quantizer.scheme={place}")).hash for place in places)
    assert first == same != other


def test_a_scheme_of_another_network_is_refused_before_anything_is_written(tmp_path):
    place = scheme(tmp_path / "a.json", {"elsewhere": 4})
    with pytest.raises(ConfigError, match="gives no bits to"):
        tiny(tmp_path / "run", "quantizer=uniform", "quantizer/allocation=scheme", f"quantizer.scheme={place}")
    assert not (tmp_path / "run").exists()


def test_training_from_a_quantised_file_without_a_quantizer_has_its_gradients(tmp_path, dense):
    tiny(tmp_path / "lsq", dense, *SHORT, "quantizer=lsq")
    file = f"model.checkpoint={tmp_path}/lsq/checkpoints/final.pt"
    tiny(tmp_path / "dense", "pruner=dense", "optimizer.lr=0.1", file)
    before, after = (torch.load(tmp_path / run / "checkpoints/final.pt", weights_only=True)["model"]
                     for run in ("lsq", "dense"))  # fmt: skip
    assert not [name for name in after if "input_quantizer" in name]
    moved = [not torch.equal(value, before[name]) for name, value in after.items() if name.endswith("weight")]
    assert all(moved)


def test_a_quantised_file_of_another_network_is_refused(tmp_path, dense):
    tiny(tmp_path / "lsq", dense, *SHORT, "quantizer=lsq")
    with pytest.raises(ConfigError, match="does not fit this model"):
        tiny(tmp_path / "run", "model=vgg19", "data.size=32", f"model.checkpoint={tmp_path}/lsq/checkpoints/final.pt")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("quantizer=lsq",), ("quantizer=ddq", "quantizer/activation=ddq")])
def test_a_moving_average_begins_with_what_is_learned(tmp_path, dense, words):
    states = []
    for name, more in (("live", ()), ("mean", ("trainer.ema=0.999",))):
        tiny(tmp_path / name, dense, *SHORT, "optimizer.lr=1e-6", "schedule.start=0.5", *words, *more)
        states.append(torch.load(tmp_path / name / "checkpoints" / "final.pt", weights_only=True)["model"])
    live, mean = states
    for name in (name for name in live if name.endswith((".step", ".levels"))):
        assert torch.allclose(live[name], mean[name], rtol=0.05, atol=1e-4), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("quantizer=lsq", "quantizer.activation_decay=0.1"), "quantizer.activation_decay=0.1 has no effect"),
        (("quantizer=lsq", "quantizer.every=100it"), "quantizer.every=100it has no effect"),
        (("quantizer=kmeans", "quantizer/activation=lsq"), "quantizer/activation=lsq has no effect"),
        (("quantizer=uniform", "quantizer.levels=[2,4]"), "quantizer.levels=[2,4] has no effect"),
        (("quantizer=uniform", "quantizer.budget=bitops"), "quantizer.budget=bitops has no effect"),
        (("quantizer=lsq", "quantizer/path=bits"), "quantizer/path=bits has no effect"),
        (("quantizer=lsq", "quantizer.clip=max"), "quantizer.clip=max has no effect: this estimator learns"),
        (
            ("quantizer=uniform", "quantizer/allocation=random", "quantizer.target=0.1", "quantizer.weight_bits=2"),
            "quantizer.weight_bits=2 has no effect: quantizer.target is what the bits may cost",
        ),
        (
            ("quantizer=ddq", "quantizer.target=0.2", "quantizer.weight_bits=3"),
            "quantizer.weight_bits=3 has no effect: quantizer.target is what the bits may cost",
        ),
        (
            (
                "quantizer=uniform",
                "quantizer/allocation=scheme",
                "quantizer.scheme=bits.json",
                "quantizer.weight_bits=2",
            ),
            "quantizer.weight_bits=2 has no effect: the scheme's file has the bits of weights",
        ),
        (("quantizer=lsq", "schedule=linear"), "schedule=linear has no effect: this quantizer"),
        (("quantizer=lsq", "schedule.stop=0.5"), "schedule.stop=0.5 has no effect"),
        (("quantizer=lsq", "quantizer/path=bits", "schedule=linear"), None),
        (("quantizer=uniform", "quantizer.every=100it", "quantizer.activation_decay=0.1"), None),
        (("quantizer=uniform", "quantizer.activation_bits=null"), None),
        (("quantizer=lsq", "quantizer/path=bits", "pruner=nm_block", "schedule=linear"), None),
    ],
)
def test_settings_without_effect_are_named(tmp_path, monkeypatch, caplog, words, said):
    monkeypatch.chdir(tmp_path)
    Path("bits.json").write_text('{"format": 1, "bits": {}}')
    Plan.of(composed(*TINY, *words))
    assert (said in caplog.text) if said else ("has no effect" not in caplog.text)


def test_gates_that_stay_open_are_named(tmp_path, dense, caplog):
    tiny(tmp_path, dense, "quantizer=ddq", "optimizer.lr=1e-6")
    assert "too many gates are open" in caplog.text


def test_a_search_without_an_agent_is_named(tmp_path, dense, caplog):
    build_session(Plan.of(composed(*TINY, *HAQ, "quantizer.episodes=3", dense, f"run_dir={tmp_path}/run")))
    assert "quantizer.episodes=3: all are random" in caplog.text


def test_directories_are_named_after_the_quantizer():
    names = [
        Plan.of(composed(*TINY, *words)).name
        for words in (("pruner=dense",), ("quantizer=lsq",), ("quantizer=lsq", "pruner=nm"))
    ]
    assert names == ["dense", "lsq", "nm_lsq"]


def test_what_is_no_member_is_refused_when_it_is_built():

    axes = {"scope": Scope(), "estimator": STE(Uniform()), "allocation": Same(), "path": Jump()}
    for axis in axes:
        with pytest.raises(ValueError, match=f"{axis}: object has no"):
            Quantization(**{**axes, axis: object()})
    with pytest.raises(ValueError, match="its file builds none"):
        Quantization(**{**axes, "path": {}})
    with pytest.raises(ValueError, match=r"grid=object.*has no memory, fit, quantise, values"):
        Quantization(**{**axes, "estimator": STE(Grid())})


class Grid:
    name, bits = "object", (2, 8)
