"""Families of networks from both libraries: what is in scope, and a step from dense to a verified pattern."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

import pytest

from benchmarks.common import prepared
from midstate.engine.step import train_step
from midstate.sparsity import weight_layers


@dataclass(frozen=True)
class Family:
    """What the layers of a network are, by name patterns; the rest are the ones that both scopes prune."""

    library: str
    num_layers: int  # convolutions and linear layers
    nm: int  # of them in the scope of `nm` at 2:4: not the first, the classifier, depthwise, indivisible
    filter: int  # of them in the scope of `filter`: not the classifier, depthwise, shortcuts, linear
    first: str
    classifier: str
    depthwise: str = ""
    indivisible: str = ""  # input channels that 4 does not divide
    shortcuts: str = ""
    linear: str = ""  # without the classifier
    settings: tuple[str, ...] = ()


VIT = {"first": "patch_embed.proj", "classifier": "head", "linear": "blocks.*"}
FIT = ("model.arguments.img_size=64", "model.arguments.patch_size=16")
NONE = ("model.arguments=null",)
RESNET = {"first": "conv1", "classifier": "fc", "shortcuts": "layer*.downsample.0"}

FAMILIES = {
    # stem, 2 convolutions in each of 2+2+2+2 (3+4+6+3) blocks, 3 shortcuts, classifier
    "resnet18": Family("torchvision", 1 + 16 + 3 + 1, 19, 17, **RESNET),
    "resnet34": Family("torchvision", 1 + 32 + 3 + 1, 35, 33, **RESNET),
    # 3 convolutions in each of 16 blocks, 4 shortcuts
    "resnet50": Family("torchvision", 1 + 48 + 4 + 1, 52, 49, **RESNET),
    # stem; one block of 2, 16 of 3, one of them in each depthwise; a last convolution; classifier
    "mobilenet_v2": Family(
        "torchvision", 1 + 2 + 48 + 1 + 1, 34, 35, "features.0.0", "classifier.1",
        depthwise="features.1.conv.0.0 features.*.conv.1.0",
    ),
    # stem, 13 pairs of depthwise and pointwise, classifier
    "mobilenetv1_100": Family(
        "timm", 1 + 26 + 1, 13, 14, "conv_stem", "classifier", depthwise="blocks.*.conv_dw", settings=NONE
    ),
    # 13 (16) convolutions and 3 linear layers
    "vgg16_bn": Family("torchvision", 13 + 3, 14, 13, "features.0", "classifier.6", linear="classifier.0 classifier.3"),
    "vgg19_bn": Family("torchvision", 16 + 3, 17, 16, "features.0", "classifier.6", linear="classifier.0 classifier.3"),
    # stem; a block of 4, 15 of 5, one of them depthwise, two squeeze and excitation; a last convolution; classifier.
    # Excitation reads a quarter of the channels that the block gets: 24 (6) and 40 (10) give no whole groups of 4.
    "efficientnet_b0": Family(
        "torchvision", 1 + 4 + 75 + 1 + 1, 60, 65, "features.0.0", "classifier.1",
        depthwise="features.1.0.block.0.0 features.[2-7].*.block.1.0",
        indivisible="features.2.1.*.fc2 features.3.0.*.fc2 features.3.1.*.fc2 features.4.0.*.fc2",
    ),
    # stem, 3 that halve the image, 18 blocks of a depthwise convolution and 2 linear layers, classifier
    "convnext_tiny": Family(
        "torchvision", 1 + 3 + 54 + 1, 39, 4, "features.0.0", "classifier.2",
        depthwise="features.*.block.0", linear="features.*.block.3 features.*.block.5",
    ),
    # stem, 16 blocks of 3 convolutions and squeeze and excitation, 4 shortcuts, classifier; excitation as above:
    # 104 (26) and 440 (110)
    "regnet_y_400mf": Family(
        "torchvision", 1 + 80 + 4 + 1, 76, 81, "stem.0", "fc", shortcuts="trunk_output.*.proj.0",
        indivisible="*.block2-[12].f.se.fc2 *.block3-0.f.se.fc2 *.block4-[1-5].f.se.fc2",
    ),
    # patches, 12 blocks of qkv, projection and 2 more, classifier
    "deit_small_patch16_224": Family("timm", 1 + 48 + 1, 48, 1, settings=FIT, **VIT),
    "vit_tiny_patch16_224": Family("timm", 1 + 48 + 1, 48, 1, settings=FIT, **VIT),
}  # fmt: skip
PRUNERS = {
    "nm": ("pruner.n=2", "pruner.m=4", "trainer.max_steps_per_epoch=1"),
    "filter": ("schedule=one_shot", "trainer.max_steps_per_epoch=1"),
}


def session_of(name, pruner):
    family = FAMILIES[name]
    return prepared(
        f"model={family.library}", f"model.name={name}", "model.small_stem=false", *family.settings,
        "data=fake", "data.size=64", "data.num_train=2", "data.num_eval=2", "trainer.batch_size=2", "trainer.epochs=1",
        f"pruner={pruner}", *PRUNERS[pruner],
    )  # fmt: skip


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name.startswith("vgg") else ()) for name in FAMILIES]
)
def test_scope_and_one_step(name, pruner):
    family, session = FAMILIES[name], session_of(name, pruner)
    layers = [layer.name for layer in weight_layers(session.model)]
    assert (len(layers), layers[0]) == (family.num_layers, family.first)
    dense = [family.classifier, family.depthwise]
    dense += [family.first, family.indivisible] if pruner == "nm" else [family.shortcuts, family.linear]
    patterns = " ".join(dense).split()
    assert all(any(fnmatchcase(layer, each) for layer in layers) for each in patterns)
    in_scope = [layer.name for layer in session.pruner.layers]
    assert in_scope == [each for each in layers if not any(fnmatchcase(each, pattern) for pattern in patterns)]
    assert len(in_scope) == getattr(family, pruner)

    for images, labels in session.batches.epoch(0, 0):
        train_step(session, images, labels)
    session.check_finite()
    session.pruner.refresh(session.step)
    session.pruner.finalise()
    assert session.pruner.verify()
    for layer in session.pruner.layers:
        num_filters = len(layer.weight)
        pruned = 0.5 if pruner == "nm" else int(0.3 * num_filters) / num_filters
        assert float((layer.weight == 0).float().mean()) == pytest.approx(pruned, abs=1e-4), layer.name
