"""MNIST's family: read from files that the tests write, and Debian's where they are installed."""

import gzip
from pathlib import Path

import pytest
import torch
from conftest import composed, idx, write_mnist
from torch import Generator, Tensor

from midstate.common.errors import ConfigError
from midstate.data import MNIST, Augmentation, Images
from midstate.data.splits import stratified
from midstate.runs.identity import config_hash
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session

NONE = Augmentation(0, False)
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
PARTS = {"num_train": 60, "num_validation": 20, "num_unused": 30}


def load(root: Path, **settings: object) -> Images:
    return MNIST(NONE, "FashionMNIST", str(root), download=False, **{**PARTS, **settings}).load()


def restored(data: Images, part: str, images: Tensor) -> list[int]:
    """Which of the written images each image of a part is."""
    pixels = [tuple(image.flatten().tolist()) for image in images]
    # Normalising is undone by the range of values: the part has both 0 and 255 somewhere.
    split = getattr(data, part).images[:, 0]
    low, high = split.min(), split.max()
    bytes_of = ((split - low) / (high - low) * 255).round().to(torch.uint8)
    return [pixels.index(tuple(image.flatten().tolist())) for image in bytes_of]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["", "raw", "FashionMNIST/raw"])
def test_the_parts_are_disjoint_and_have_all_classes_in_proportion(tmp_path, place, packed):
    images, labels = write_mnist(tmp_path / place, packed)
    data = load(tmp_path)
    assert (data.shape, data.num_classes, len(data.test)) == ((1, 28, 28), 10, 30)
    found = {part: restored(data, part, images) for part in ("train", "validation", "unused")}
    assert len(set().union(*found.values())) == sum(len(each) for each in found.values()) == 110
    for part, count in (("train", 6), ("validation", 2), ("unused", 3)):
        split = getattr(data, part)
        assert split.labels.bincount().tolist() == [count] * 10
        assert split.labels.tolist() == labels[found[part]].tolist()
        assert split.first(10).labels.unique().numel() == 10  # the first are a fair sample
    assert abs(float(data.train.images.mean())) < 1e-5
    assert float(data.train.images.std()) == pytest.approx(1, abs=1e-5)


def test_the_parts_are_drawn_by_the_seed_alone(tmp_path):
    images, _ = write_mnist(tmp_path)
    once, again, other = load(tmp_path), load(tmp_path), load(tmp_path, seed=1)
    for part in ("train", "validation", "test", "unused"):
        assert torch.equal(getattr(once, part).images, getattr(again, part).images)
    assert sorted(restored(once, "train", images)) != sorted(restored(other, "train", images))
    assert torch.equal(once.test.labels, other.test.labels)
    fewer = load(tmp_path, num_train=20)  # a smaller set is a part of a larger one, beside the same others
    assert restored(fewer, "train", images) == restored(once, "train", images)[:20]
    assert restored(fewer, "unused", images) == restored(once, "unused", images)
    assert load(tmp_path, num_unused=0, num_train=100).unused is None


def test_classes_of_any_size_stay_in_proportion():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.randperm(100, generator=Generator().manual_seed(3))]
    order = stratified(labels, Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(100))
    for first in range(0, 100, 10):
        counts = labels[order[first : first + 10]].bincount(minlength=3)
        assert (counts - torch.tensor([5, 3, 2])).abs().max() <= 1


@pytest.mark.parametrize("size", [14, 7])
def test_smaller_images_are_averages(tmp_path, size):
    write_mnist(tmp_path)
    whole, small = load(tmp_path).test.images[:3, 0], load(tmp_path, size=size)
    assert small.shape == (1, size, size)
    step = 28 // size
    slow = torch.tensor([
        [[image[i : i + step, j : j + step].mean() for j in range(0, 28, step)] for i in range(0, 28, step)]
        for image in whole
    ])  # fmt: skip
    got = small.test.images[:3, 0]  # normalised by its own deviation: the same up to scale and offset
    scale = (got[0, 0, 0] - got[0, 0, 1]) / (slow[0, 0, 0] - slow[0, 0, 1])
    assert torch.allclose(got, slow * scale + (got[0, 0, 0] - slow[0, 0, 0] * scale), atol=1e-4)
    assert abs(float(small.train.images.mean())) < 1e-5


def damage(folder: Path, kind: str) -> None:
    images, labels = folder / IMAGES, folder / LABELS
    if kind == "cut off":
        images.write_bytes(images.read_bytes()[:-1])
    elif kind == "header cut off":
        labels.write_bytes(labels.read_bytes()[:6])
    elif kind == "too long":
        labels.write_bytes(labels.read_bytes() + b"\0")
    elif kind == "empty":
        images.write_bytes(b"")
    elif kind == "magic":
        images.write_bytes(b"\0\0\x08\x01" + images.read_bytes()[4:])
    elif kind == "fewer labels":
        labels.write_bytes(idx((torch.arange(119) % 10).to(torch.uint8)))
    elif kind == "label 10":
        labels.write_bytes(idx((torch.arange(120) % 11).to(torch.uint8)))
    elif kind == "other size":
        images.write_bytes(idx(torch.zeros(120, 14, 14, dtype=torch.uint8)))
    elif kind == "missing":
        labels.unlink()
    else:
        packed = gzip.compress(labels.read_bytes())
        labels.unlink()
        labels.with_name(f"{LABELS}.gz").write_bytes(
            {"gz cut off": packed[:-12], "no gz": b"no gz", "gz damaged": packed[:20] + b"\xff" * 8 + packed[28:]}[kind]
        )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut off", f"{IMAGES}: cut off; its header tells of 94,096 bytes, it has 94,095"),
        ("header cut off", f"{LABELS}: cut off"),
        ("too long", f"{LABELS}: too long"),
        ("empty", f"{IMAGES}: its magic number is 0"),
        ("magic", f"{IMAGES}: its magic number is 2049; a file of bytes in 3 dimensions begins with 2051"),
        ("fewer labels", f"{LABELS}: has 119 labels, and {IMAGES} 120 images"),
        ("label 10", f"{LABELS}) split has labels from 0 to 10"),
        ("other size", f"{IMAGES}: its images are 14x14, not 28x28"),
        ("missing", f"FashionMNIST's file {LABELS} (or {LABELS}.gz) is missing there"),
        ("gz cut off", f"{LABELS}.gz: damaged"),
        ("no gz", f"{LABELS}.gz: damaged"),
        ("gz damaged", f"{LABELS}.gz: damaged"),
    ],
)
def test_damaged_files_are_refused_by_name_and_nothing_is_written(tmp_path, monkeypatch, kind, message):
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "sets")
    damage(tmp_path / "sets", kind)
    before = sorted(tmp_path.rglob("*"))
    settings = [f"data.{name}={count}" for name, count in PARTS.items()]
    plan = Plan.of(composed("data=fashion_mnist", "data.root=sets", "data.download=false", *settings))
    with pytest.raises(ConfigError) as refused:
        build_session(plan)
    assert str(refused.value).startswith("data: ")
    assert message in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_download_leaves_nothing_and_names_the_file(tmp_path, monkeypatch):
    for kind in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(kind, "http://127.0.0.1:1")  # where nobody answers
    # Fashion-MNIST may be installed here.
    for name in ("MNIST", "KMNIST", *(() if DEBIAN.is_dir() else ("FashionMNIST",))):
        with pytest.raises(ValueError, match=f"{name}'s file {IMAGES} .* is missing there, and could not be fetched"):
            MNIST(NONE, name, str(tmp_path / "new")).load()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 16}, "size=16: must be one of 28, 14, 7"),
        ({"size": True}, "size=True: must be one of"),
        ({"num_train": 0}, "num_train=0"),
        ({"num_unused": -1}, "num_unused=-1"),
        ({"num_train": 71}, "num_train=71: with num_validation=20 and num_unused=30 that is 121 images"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings, message):
    write_mnist(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **settings)
    with pytest.raises(ValueError, match=r"name='FashonMNIST': .*did you mean FashionMNIST"):
        MNIST(NONE, "FashonMNIST", str(tmp_path))


def test_where_the_files_lie_is_no_part_of_a_run():
    def identity(*overrides: str) -> str:
        return Plan.of(composed(*overrides)).hash

    fashion = identity("data=fashion_mnist")
    assert fashion == identity("data=fashion_mnist", "data.root=elsewhere", "data.download=false")
    assert (
        len({fashion, identity("data=mnist"), identity("data=kmnist"), identity("data=fashion_mnist", "data.size=14")})
        == 4
    )
    assert identity("data=cifar10") != identity("data=cifar10", "data.root=elsewhere")
    assert config_hash({"data": None}) != config_hash({})
    assert Plan.of(composed("data=fashion_mnist")).parts.trainer.threads == 1


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_published_set():
    data = MNIST(Augmentation(2, True), "FashionMNIST", str(DEBIAN), download=False, size=14).load()
    assert (data.shape, data.num_classes) == ((1, 14, 14), 10)
    for part, count in (("train", 1200), ("validation", 200), ("unused", 1000), ("test", 1000)):
        assert getattr(data, part).labels.bincount().tolist() == [count] * 10
    assert data.test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
