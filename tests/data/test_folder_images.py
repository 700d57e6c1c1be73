"""What lies in folders of images: rare classes, small sets, other files, photographs that EXIF turns."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from midstate.data import Crops, ImageFolder, TimmData
from midstate.data.decoding import to_rgb
from midstate.data.splits import hold_out, most_held_out

SETTINGS = {"augmentation": Crops(), "size": 8, "resize": 8, "workers": 0}


def made(root, **numbers):
    for split in ("train", "val"):
        for name, number in numbers.items():
            (root / split / name).mkdir(parents=True)
            for index in range(number):
                Image.new("RGB", (8, 8), (index, index, index)).save(root / split / name / f"{index}.png")
    return root


def load(root, kind=None, **settings):
    settings = {"root": str(root), **SETTINGS, **settings}
    return (ImageFolder(**settings) if kind is None else TimmData(name=kind, **settings)).load()


@pytest.mark.parametrize("kind", [None, "folder", "torch/image_folder"])
def test_no_class_loses_its_last_training_image(kind, tmp_path):
    made(tmp_path, a=20, b=20, rare=2)
    for seed in range(8):
        data = load(tmp_path, kind, num_validation=20, seed=seed)
        assert (len(data.train), len(data.validation)) == (22, 20)
        assert data.train.labels.eq(2).sum() >= 1
        assert not set(data.train.indices.tolist()) & set(data.validation.indices.tolist())


def test_a_split_that_leaves_each_class_an_image_is_the_first_of_the_order():
    """As it was before classes were looked at: runs on folders stay what they are."""
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(300) % 7
    for given in (labels, None):
        held, kept = hold_out(order, given, 40)
        assert held.equal(order[:40])
        assert kept.equal(order[40:])


def test_otherwise_each_class_gives_its_share_and_keeps_one():
    labels = torch.tensor([0] * 50 + [1] * 40 + [2] * 8 + [3] * 2)
    order = torch.tensor([98, 99, *range(98)])  # class 3 comes first
    held, kept = hold_out(order, labels, 30)
    assert labels[held].bincount().tolist() == [15, 12, 2, 1]
    assert sorted([*held.tolist(), *kept.tolist()]) == list(range(100))
    assert held.tolist() == [each for each in order.tolist() if each in set(held.tolist())]  # still shuffled
    assert most_held_out(labels, 100) == 96
    held, kept = hold_out(order, labels, 96)
    assert sorted(labels[kept].tolist()) == [0, 1, 2, 3]


def test_of_a_small_set_a_fifth_is_held_out_and_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data = load(made(tmp_path, a=24, b=24))
    assert (len(data.train), len(data.validation)) == (38, 10)
    assert "data.num_validation=1000: cannot be held out of 48 training images" in caplog.text
    assert "data: 38 training, 10 validation and 48 test images of 2 classes" in caplog.text
    caplog.clear()
    load(tmp_path, num_validation=30)
    assert "data.num_validation=30: more than half of the 48 training images" in caplog.text


def test_where_each_class_has_one_image_nothing_can_be_held_out(tmp_path):
    with pytest.raises(ValueError, match=r"num_validation=1000: none of the 2 training images can be held out"):
        load(made(tmp_path, a=1, b=1))


@pytest.mark.parametrize("kind", [None, "folder", "torch/image_folder"])
def test_files_that_begin_with_a_dot_are_none_and_others_are_counted(kind, tmp_path, caplog):
    made(tmp_path, a=10, b=10)
    (tmp_path / "train" / "a" / "._0.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (tmp_path / "train" / "a" / ".DS_Store").touch()
    (tmp_path / "train" / "about.txt").touch()  # in no class
    for index in range(3):
        Image.new("P", (8, 8)).save(tmp_path / "train" / "b" / f"{index}.gif")
    data = load(tmp_path, kind, num_validation=4)
    assert (len(data.train), len(data.validation)) == (16, 4)
    (line,) = [record.message for record in caplog.records]
    assert "data.train='train': files that are not read in " in line
    assert ": 3 .gif; read are " in line
    for file in (tmp_path / "train" / "a").glob("[0-9]*.png"):
        file.rename(file.with_suffix(".GIF"))
    if kind is None:
        with pytest.raises(ValueError, match=r"no image in .* of a \(10 .gif there; .jpg, .*are read\)"):
            load(tmp_path, kind)


def photograph(orientation, path=None, kind="PNG"):
    """An image that is red above and blue to the right, stored so that EXIF data turn it upright."""
    pixels = np.zeros((6, 4, 3), np.uint8)
    pixels[:3, :, 0], pixels[:, 2:, 2] = 200, 100
    upright, exif = Image.fromarray(pixels), Image.Exif()
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # the transposition that undoes it
    stored = upright if back is None else upright.transpose(Image.Transpose(back))
    exif[0x0112] = orientation
    stored.save(path, kind, exif=exif)
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright_once(orientation, tmp_path):
    pixels = photograph(orientation, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        once = to_rgb(image)
    assert np.array_equal(np.asarray(once), pixels)
    assert np.array_equal(np.asarray(to_rgb(once)), pixels)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_data_turn_nothing(tmp_path):
    Image.new("RGB", (6, 4), (9, 9, 9)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    with Image.open(tmp_path / "a.jpg") as image:
        assert to_rgb(image).size == (6, 4)


@pytest.mark.parametrize("kind", [None, "folder", "torch/image_folder"])
def test_turned_and_upright_copies_are_the_same_data(kind, tmp_path):
    for name, orientation in (("plain", 1), ("turned", 6)):
        for split in ("train", "val"):
            for label in "ab":
                place = tmp_path / name / split / label
                place.mkdir(parents=True)
                for index in range(5):
                    photograph(orientation, place / f"{index}.png")
    plain, turned = (load(tmp_path / name, kind, num_validation=2).test.first(10) for name in ("plain", "turned"))
    assert plain.images.equal(turned.images)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_photograph_is_still_told(suffix, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(tmp_path / f"a.{suffix}", exif=exif)
    whole = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(whole[: len(whole) // 2])
    with Image.open(tmp_path / f"a.{suffix}") as image, pytest.raises((OSError, SyntaxError)):
        to_rgb(image)
