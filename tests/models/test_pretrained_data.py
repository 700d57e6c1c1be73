"""What a library's weights were trained on, beside what they are to read."""

import pytest
from conftest import composed

from midstate.models import Timm, Torchvision
from midstate.runs.parts import build_parts
from midstate.runs.warnings import warn_of_pretrained

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def trained(recipe):
    found = recipe.trained()
    return tuple(found.mean), tuple(found.std), found.num_classes


def test_the_libraries_say_what_their_weights_were_trained_on():
    assert trained(Torchvision("resnet18", pretrained=True)) == (*IMAGENET, 1000)
    assert trained(Torchvision("efficientnet_v2_l", pretrained=True)) == ((0.5,) * 3, (0.5,) * 3, 1000)
    assert trained(Timm("vit_tiny_patch16_224.augreg_in21k", pretrained=True)) == ((0.5,) * 3, (0.5,) * 3, 21843)
    assert trained(Timm("resnet10t", pretrained=True)) == (*IMAGENET, 1000)
    assert Timm("resnet10t").trained() is Torchvision("resnet18").trained() is None


def said(caplog, *overrides, num_classes=1000):
    caplog.clear()
    warn_of_pretrained(build_parts(composed("pruner=dense", *overrides)), num_classes)
    return [record.message for record in caplog.records]


VIT = ("model=timm", "model.pretrained=true", "model.arguments=null")


def test_another_normalisation_is_warned_of_with_both(caplog):
    vit = (*VIT, "model.name=vit_tiny_patch16_224.augreg_in21k_ft_in1k", "data=imagefolder")
    (line,) = said(caplog, *vit)
    assert "data.mean=[0.485, 0.456, 0.406] data.std=[0.229, 0.224, 0.225]: the weights of vit_tiny" in line
    assert line.endswith("were trained with data.mean=[0.5, 0.5, 0.5] data.std=[0.5, 0.5, 0.5]")
    assert said(caplog, *vit, "data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]") == []


@pytest.mark.parametrize("data", ["data=imagefolder", "data=fake"])
def test_other_classes_are_warned_of_and_their_own_are_not(data, caplog):
    resnet = (*VIT, "model.name=resnet10t", data)
    assert said(caplog, *resnet) == []
    (line,) = said(caplog, *resnet, num_classes=7)
    assert "is of 1000 classes, and the data have 7: the classifier begins anew" in line
    assert said(caplog, "model=timm", data) == []
