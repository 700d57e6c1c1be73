import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune

from midstate.models import classifier_names
from midstate.sparsity import L1, NM, SRSTE, Direct, Method, Pruner, Schedule, Scope, Uniform, Update, weight_layers


def names(model, scope=None, pattern=None):
    return [layer.name for layer in (scope or Scope()).resolve(model, classifier_names(model), pattern or NM(2, 4))]


def test_resnet18_has_all_but_stem_and_classifier():
    chosen = names(torchvision.models.resnet18(), pattern=NM(1, 16))
    assert len(chosen) == 19
    assert "conv1" not in chosen
    assert "fc" not in chosen
    assert "layer2.0.downsample.0" in chosen


def test_depthwise_convolutions_stay_dense_unless_asked():
    model = torchvision.models.mobilenet_v2(num_classes=10)
    depthwise = {name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    assert not depthwise & set(names(model))
    # Their one input channel divides by no M above 1.
    assert depthwise <= set(names(model, Scope(skip_depthwise=False), NM(1, 1)))


def test_attention_input_projections_are_not_missed():
    chosen = names(torchvision.models.vit_b_32(num_classes=10))
    assert sum("in_proj_weight" in name for name in chosen) == 12
    assert "heads.head" not in chosen
    assert "conv_proj" not in chosen
    fused = names(timm.create_model("vit_tiny_patch16_224", num_classes=10))
    assert sum("attn.qkv" in name for name in fused) == 12
    assert "head" not in fused


def test_attention_is_really_pruned():
    model = nn.Sequential(nn.Linear(8, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 2))
    method = Method(Scope(), NM(2, 4), L1(), Uniform(), Direct(), Update(), SRSTE())
    pruner = Pruner(model, method, Schedule("one_shot", 0, 0), 1, 1, classifier="2")
    pruner.tick(0)
    x = torch.randn(3, 1, 8)
    masked = model[1](x, x, x)[0]
    pruner.finalise()
    assert pruner.verify()
    assert (model[1].in_proj_weight == 0).float().mean() == 0.5
    assert torch.equal(model[1](x, x, x)[0], masked)


def test_classifier_is_known_from_the_model_itself():
    assert classifier_names(timm.create_model("mobilenetv1_100", num_classes=10)) == ("classifier",)
    assert classifier_names(torchvision.models.squeezenet1_1()) == ("classifier.1",)  # a convolution
    assert classifier_names(timm.create_model("resnet10t", num_classes=0)) == ()


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("deit_tiny_distilled_patch16_224", ("head", "head_dist")),  # a tuple
        ("levit_128s", ("head.linear", "head_dist.linear")),  # a tuple of modules that hold the layer
        ("crossvit_tiny_240", ("head.0", "head.1")),  # a ModuleList
        ("repvit_m1", ("head.head.l", "head.head_dist.l")),  # a module that holds both
        ("caformer_s18", ("head.fc.fc1", "head.fc.fc2")),  # a perceptron
    ],
)
def test_every_layer_of_a_classifier_with_several_stays_dense(name, heads):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10)
    assert classifier_names(model) == heads
    everything = names(model, Scope(skip_classifier=False), NM(1, 1))
    assert [each for each in everything if each not in names(model, pattern=NM(1, 1))] == list(heads)


@pytest.mark.parametrize("classifier", ["2", ("1", "2")])
def test_allocations_know_every_layer_of_the_classifier(classifier):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    method = Method(Scope(skip_classifier=False), NM(2, 4), L1(), Uniform(), Direct(), Update(), SRSTE())
    pruner = Pruner(model, method, Schedule("one_shot", 0, 0), 1, 1, classifier=classifier)
    assert [each.name for each in pruner._network.views() if each.is_classifier] == list(classifier)


def test_exclude_by_pattern():
    model = torchvision.models.resnet18()
    chosen = names(model, Scope(exclude=("layer1.*", "layer2.0.conv1")))
    assert not [name for name in chosen if name.startswith("layer1")]
    assert "layer2.0.conv1" not in chosen
    with pytest.raises(ValueError, match=r"exclude=\['layer9.*'\]: matches no layer"):
        names(model, Scope(exclude=("layer9.*",)))


def test_indivisible_layers():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1))
    assert names(model) == ["2"]
    assert names(model, Scope(indivisible="pad")) == ["1", "2"]
    with pytest.raises(ValueError, match=r"not divisible by m=4 in \{'1': \(8, 6, 1, 1\)\}"):
        names(model, Scope(indivisible="error"))
    with pytest.raises(ValueError, match="no layer is left to prune"):
        names(model, pattern=NM(1, 16))


def test_tied_tensors_are_refused_by_name():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[2].weight = model[1].weight
    with pytest.raises(ValueError, match="1 shares its weight"):
        names(model)


def test_weight_standardised_convolutions_are_refused_by_name():
    model = timm.create_model("resnetv2_50x1_bit", num_classes=10)
    with pytest.raises(ValueError, match=r"stages.*weight-standardised convolution \(StdConv2d"):
        names(model)


def test_scaled_standardised_convolutions_are_refused_by_name():
    model = timm.create_model("nf_resnet26", num_classes=10)
    with pytest.raises(ValueError, match=r"stages.*weight-standardised convolution \(ScaledStdConv2d"):
        names(model)


def test_a_module_that_is_used_twice_is_one_layer():
    model = torchvision.models.resnet18()
    model.layer1[1].conv1 = model.layer1[0].conv1
    assert len(names(model)) == 18
    model.layer1[1].conv1 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    model.layer1[1].conv1.weight = model.layer1[0].conv1.weight  # two layers, one tensor
    with pytest.raises(ValueError, match=r"layer1.0.conv1 shares its weight"):
        names(model)


@pytest.mark.parametrize(
    "normalise",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        torch.nn.utils.spectral_norm,  # a hook
        lambda module: prune.l1_unstructured(module, "weight", 0.5),
    ],
)
def test_computed_weights_are_refused_by_name_unless_excluded(normalise):
    model = torchvision.models.resnet18()
    normalise(model.layer2[0].conv2)
    with pytest.raises(ValueError, match=r"layer2.0.conv2 computes its weight from other tensors .*: exclude it"):
        names(model)
    assert len(names(model, Scope(exclude=("layer2.0.conv2",)))) == 18


def test_depth_counts_every_weight_layer():
    model = torchvision.models.resnet18()
    assert [layer.depth for layer in weight_layers(model)] == list(range(21))
    assert Scope().resolve(model, "fc", NM(2, 4))[0].depth == 1


@pytest.mark.parametrize(
    "bad", [{"indivisible": "drop"}, {"skip_first": "no"}, {"exclude": "layer1"}, {"exclude": [1]}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Scope(**bad)
