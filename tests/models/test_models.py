import pytest
import torch

from midstate.compaction.counting import weight_uses
from midstate.models import CifarResNet, CifarVGG, Timm, Torchvision
from midstate.sparsity import weight_layers


def cifar(blocks, shortcut="pad"):
    return CifarResNet([blocks] * 3, [16, 32, 64], shortcut)


@pytest.mark.parametrize(
    ("blocks", "params", "macs"),
    [(3, 0.27, 40.55), (5, 0.46, 68.9), (9, 0.85, 125.5), (18, 1.73, 252.9)],
)
def test_cifar_resnets_have_the_published_size(blocks, params, macs):
    """Parameters from arXiv 1512.03385, table 6; MACs (convolutions) as the SFP paper counts them."""
    model = cifar(blocks).create(3, 10)
    uses = weight_uses(model, torch.zeros(1, 3, 32, 32))
    convolutions = [layer for layer in weight_layers(model) if layer.name != "classifier"]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(params, abs=0.005)
    counted = sum(layer.weight.numel() * uses[layer.name] for layer in convolutions) / 1e6
    assert counted == pytest.approx(macs, rel=1e-3)


def test_vgg_19_has_the_published_size():
    """20.04M parameters, and 7.97e8 operations, two a MAC and some besides (arXiv 1708.06519, table 1)."""
    model = CifarVGG([2, 2, 4, 4, 4], [64, 128, 256, 512, 512], 0.5).create(3, 10)
    uses = weight_uses(model, torch.zeros(1, 3, 32, 32))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(20.04, abs=0.005)
    macs = sum(layer.weight.numel() * uses[layer.name] for layer in weight_layers(model))
    assert 2 * macs / 1e8 == pytest.approx(7.97, abs=0.01)
    assert all((norm.weight == 0.5).all() for norm in model.norms)


def test_the_default_model():
    model = cifar(1, "conv").create(1, 10)
    assert sum(p.numel() for p in model.parameters()) == 77754
    assert model(torch.randn(2, 1, 16, 16)).shape == (2, 10)


def test_pad_shortcut_fills_new_channels_with_zeros_on_both_sides():
    shortcut = cifar(1).create(3, 10).stages[1][0].shortcut
    x = torch.randn(1, 16, 4, 4)
    out = shortcut(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert (out[:, :8] == 0).all()
    assert (out[:, 24:] == 0).all()


def test_without_shortcuts_a_block_is_its_convolutions():
    torch.manual_seed(0)
    plain = cifar(1, "none").create(1, 10).eval()
    torch.manual_seed(0)
    residual = cifar(1, "pad").create(1, 10).eval()
    assert plain.state_dict().keys() == residual.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), residual.parameters(), strict=True))
    x, block = torch.randn(2, 16, 8, 8), plain.stages[1][0]
    path = torch.nn.Sequential(block.conv1, block.bn1, torch.nn.ReLU(), block.conv2, block.bn2, torch.nn.ReLU())
    assert torch.equal(block(x), path(x))
    assert not torch.equal(block(x), residual.stages[1][0](x))
    assert CifarResNet([1, 1], [16, 8], "none").create(1, 10)(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    "bridge",
    [
        Torchvision("resnet18", small_stem=True),
        Torchvision("mobilenet_v3_small"),
        Torchvision("densenet121", small_stem=True),
        Timm("resnet10t", small_stem=True),
        Timm("convnext_atto"),
        Timm("vit_tiny_patch16_224", arguments={"img_size": 32, "patch_size": 4}),
    ],
    ids=lambda bridge: bridge.name,
)
def test_bridges_fit_classes_and_channels(bridge):
    model = bridge.create(1, 7).eval()
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)


def test_small_stem_keeps_the_resolution():
    model = Torchvision("resnet18", small_stem=True).create(3, 10)
    assert model.conv1.stride == (1, 1)
    assert model.conv1.kernel_size == (3, 3)
    assert model.maxpool(model.conv1(torch.zeros(1, 3, 32, 32))).shape[-2:] == (32, 32)


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(ValueError, match=r"cuts the image into \(16, 16\) patches"):
        Timm("vit_tiny_patch16_224", small_stem=True).create(3, 10)
    with pytest.raises(ValueError, match=r"features.0, is no convolution with a stride; use small_stem=false"):
        Torchvision("vgg11", small_stem=True).create(3, 10)


@pytest.mark.parametrize("bridge", [Torchvision, Timm])
def test_unknown_names_suggest(bridge):
    with pytest.raises(ValueError, match=r"did you mean .*resnet18"):
        bridge("resnet_18")


@pytest.mark.parametrize("bridge", [Torchvision, Timm])
@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained_cfg_overlay", "weights", "num_classes", "in_chans"])
def test_arguments_bring_no_weights_and_contradict_no_data(bridge, name):
    message = f"must not set {name}; use model.checkpoint, model.pretrained"
    with pytest.raises(ValueError, match=message):
        bridge("resnet18", arguments={name: None})


def test_bad_recipes_are_refused():
    for arguments in (([1, 1], [16], "pad"), ([0], [16], "pad"), ([1], [16], "some"), ([1, 1], [32, 16], "pad")):
        with pytest.raises(ValueError, match=r"widths|blocks|shortcut"):
            CifarResNet(*arguments)
