"""scripts/latency.py, and a budget in its microseconds."""

import json

import pytest
from conftest import TINY, composed

from latency import main
from midstate.common.errors import ConfigError
from midstate.runs.plan import Plan
from midstate.runs.run import run

QUICK = (*TINY, "trainer.epochs=1", "trainer.max_steps_per_epoch=3")
BITS = ("--weight-bits", "2", "8", "--input-bits", "2", "8")
QUANTIZER = ("quantizer=uniform", "quantizer/allocation=budget", "quantizer.score=sensitivity",
             "quantizer.levels=[2,8]", "quantizer.budget=latency", "quantizer.target=0.8")  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    file = tmp_path_factory.mktemp("latency") / "latency.json"
    assert main(["model=resnet8", *TINY[:2], "--out", str(file), *BITS]) == 0
    return file


def settings(file, *more):
    return composed(*QUICK, *QUANTIZER, f"quantizer.latency={file}", *more)


def test_a_table_says_what_was_timed(table):
    content = json.loads(table.read_text())
    assert content["unit"] == "us"
    assert (content["kernel"], content["threads"], content["batch_size"]) == ("bitserial", 1, 1)
    assert content["input"] == [1, 16, 16]
    assert len(content["layers"]) == 10
    for layer in content["layers"].values():
        assert set(layer["us"]) == {"2,2", "2,8", "8,2", "8,8", "32,32"}
        assert all(isinstance(us, int) and us >= 1 for us in layer["us"].values())


def test_bits_are_chosen_within_its_budget_a_layer_that_is_left_out_at_32_bits(table, tmp_path):
    run(settings(table, f"run_dir={tmp_path}", "quantizer.exclude=[stages.0.0.conv1]"))
    found = json.loads((tmp_path / "summary.json").read_text())["quantization"]
    assert 0 < found["latency_share"] <= 0.8
    us, bits = json.loads(table.read_text())["layers"], found["layers"]
    spent = sum(each["us"]["{},{}".format(*bits.get(name, (32, 32)))] for name, each in us.items())
    assert found["latency_share"] == spent / sum(each["us"]["8,8"] for each in us.values())


def test_the_content_identifies_a_table_whatever_the_machine_and_the_place(table, tmp_path):
    content = json.loads(table.read_text())
    (other := tmp_path / "other.json").write_text(json.dumps({**content, "processor": "another"}))
    assert Plan.of(settings(table)).hash == Plan.of(settings(other)).hash
    content["layers"]["conv1"]["us"]["2,2"] += 1
    (other := tmp_path / "slower.json").write_text(json.dumps(content))
    assert Plan.of(settings(table)).hash != Plan.of(settings(other)).hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers.pop("conv1"), "is of another network: it has no conv1"),
        (lambda layers: layers["conv1"].update(shape=[1]), "is of another network: conv1 is"),
        (lambda layers: layers["conv1"]["us"].pop("2,8"), "conv1 has no latency at bits 2,8"),
        (lambda layers: layers["conv1"].update(us=[1]), "must have `shape` and `us`"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_before_anything_is_written(table, tmp_path, change, message):
    content = json.loads(table.read_text())
    change(content["layers"])
    (file := tmp_path / "table.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        run(settings(file, f"run_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Plan.of(settings(tmp_path / "nowhere.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model=resnet7",), "Could not find 'model/resnet7'"),
        (("nowhere",), "no such directory"),
        (("--kernel", "int4"), "must be one of bitserial, int8"),
        (("--weight-bits", "9"), "weight_bits=9"),
        (("--out", "."), "is a directory"),
    ],
)
def test_what_there_is_not_is_refused(arguments, message, capsys):
    assert main(list(arguments)) == 2
    assert message in capsys.readouterr().err
