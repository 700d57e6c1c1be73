"""Checkpoints that were damaged, moved or made to do harm: real files, real bytes."""

import pickle
import random
import zipfile

import pytest
import torch

from midstate.common.errors import ConfigError
from midstate.common.files import remove_partial
from midstate.runs import checkpoint

CPU = torch.device("cpu")


def state(step):
    generator = torch.Generator().manual_seed(step)
    return {
        "model": {"weight": torch.randn(50, 40, generator=generator), "mask": torch.rand(9, generator=generator) < 0.5},
        "optimizer": {"state": {0: {"momentum_buffer": torch.randn(50, 40, generator=generator)}}},
        "rows": [{"epoch": 1, "gap": None, "lr": 0.1}],
        "rng": torch.randint(0, 256, (100,), dtype=torch.uint8, generator=generator),
        "empty": torch.empty(0),
    }


@pytest.fixture
def two(tmp_path):
    for step in (10, 20):
        checkpoint.save(tmp_path, step, state(step))
    return tmp_path


def test_what_is_saved_comes_back_and_two_are_kept(two):
    checkpoint.save(two, 30, state(30))
    assert [path.name for path in checkpoint.checkpoints(two)] == ["step-000000020.pt", "step-000000030.pt"]
    loaded = checkpoint.load_latest(two, CPU)
    assert checkpoint.digest(loaded) == checkpoint.digest({"step": 30, **state(30)})
    assert checkpoint.load_latest(two / "elsewhere", CPU) is None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_one_is_passed_over_with_a_warning(two, share, caplog):
    latest = checkpoint.checkpoints(two)[-1]
    latest.write_bytes(latest.read_bytes()[: int(share * latest.stat().st_size)])
    assert checkpoint.load_latest(two, CPU)["step"] == 10
    assert "step-000000020.pt is broken" in caplog.text


@pytest.mark.parametrize("seed", range(20))
def test_one_flipped_bit_is_noticed_or_changes_nothing(two, seed):
    latest = checkpoint.checkpoints(two)[-1]
    content, chance = bytearray(latest.read_bytes()), random.Random(seed)
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    latest.write_bytes(content)
    loaded = checkpoint.load_latest(two, CPU)
    step = loaded["step"]
    assert checkpoint.digest(loaded) == checkpoint.digest({"step": step, **state(step)})


def test_where_all_are_broken_that_is_said_and_they_are_left_alone(two):
    for path in checkpoint.checkpoints(two):
        path.write_bytes(path.read_bytes()[:-100])
    before = {path: path.read_bytes() for path in two.iterdir()}
    with pytest.raises(ConfigError, match=r"no checkpoint can be used \(step-000000020.pt: .*step-000000010.pt: "):
        checkpoint.load_latest(two, CPU)
    assert {path: path.read_bytes() for path in two.iterdir()} == before


class Harm:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize("plain", [True, False])
def test_code_in_a_checkpoint_does_not_run(two, tmp_path, plain):
    harm, latest = tmp_path / "harm", two / "step-000000030.pt"
    if plain:
        latest.write_bytes(pickle.dumps({"format": 1, "step": 30, "model": Harm(harm)}))
    else:
        torch.save({"format": 1, "step": 30, "model": Harm(harm)}, latest)
    assert checkpoint.load_latest(two, CPU)["step"] == 20
    assert not harm.exists()
    torch.load(latest, weights_only=False) if not plain else pickle.loads(latest.read_bytes())
    assert harm.exists()  # it would have


def test_other_files_are_no_checkpoints(two):
    with zipfile.ZipFile(two / "step-000000040.pt", "w") as file:
        file.writestr("data.pkl", "nothing")
    torch.save([1, 2], two / "step-000000050.pt")
    torch.save({"format": 1, "model": {}}, two / "step-000000060.pt")
    assert checkpoint.load_latest(two, CPU)["step"] == 20


def test_digests_see_names_types_shapes_and_bits():
    base = {"a": torch.zeros(4), "b": [1, None]}
    others = [
        {"a": torch.zeros(2, 2), "b": [1, None]},
        {"a": torch.zeros(4, dtype=torch.int32), "b": [1, None]},
        {"a": -torch.zeros(4), "b": [1, None]},
        {"a": torch.zeros(4), "b": [1.0, None]},
        {"a": torch.zeros(4), "c": [1, None]},
        {"a": torch.zeros(4), "b": [[1], None]},
    ]
    assert len({checkpoint.digest(each) for each in [base, *others]}) == 7
    assert checkpoint.digest(base) == checkpoint.digest({"a": torch.zeros(8)[::2], "b": [1, None]})


def test_a_later_format_is_refused_and_left_alone(two):
    torch.save({"format": 99, "step": 60}, two / "step-000000060.pt")
    with pytest.raises(ConfigError, match="is of format 99, and 1 is the last that is known here"):
        checkpoint.load_latest(two, CPU)
    assert len(checkpoint.checkpoints(two)) == 3


def test_after_going_on_from_the_one_before_two_whole_ones_are_kept(two):
    latest = two / "step-000000020.pt"
    latest.write_bytes(latest.read_bytes()[:-100])
    checkpoint.save(two, 12, state(12))
    assert [path.name for path in checkpoint.checkpoints(two)] == ["step-000000010.pt", "step-000000012.pt"]


def test_one_that_cannot_be_opened_is_passed_over(two, caplog):
    latest = two / "step-000000020.pt"
    latest.unlink()
    latest.symlink_to("nowhere")
    assert checkpoint.load_latest(two, CPU)["step"] == 10
    assert "step-000000020.pt is broken" in caplog.text


def test_what_a_killed_process_left_half_written_is_removed_and_nothing_else(two):
    for name in (".step-000000030.pt.abc.partial", ".lock", "mine.partial", ".hidden"):
        (two / name).write_text("")
    remove_partial(two.parent)
    remove_partial(two)
    assert {path.name for path in two.iterdir() if path.suffix != ".pt"} == {".lock", "mine.partial", ".hidden"}
