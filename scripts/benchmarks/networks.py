"""Networks as if trained, pruned at once, and their sizes, for `channels` and `infer`."""

from typing import Any

ARGUMENTS = {name: {"aux_logits": False, "init_weights": False} for name in ("googlenet", "inception_v3")}


def from_torchvision(name: str) -> Any:
    """Make a network of torchvision as if trained."""
    import torch
    import torchvision

    torch.manual_seed(0)
    return as_if_trained(getattr(torchvision.models, name)(**ARGUMENTS.get(name, {})))


def as_if_trained(model: Any) -> Any:
    """Draw BatchNorms at random, so that a pruned channel leaves a constant other than 0; return in evaluation mode."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for vector, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                vector.uniform_(low, high)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name:  # initially 1e-6: pruned channels would hardly change the outputs
            torch.nn.init.ones_(parameter)
    return model.eval()


def prune_channels(model: Any, shape: tuple[int, ...], sparsity: float, heads: bool = False) -> None:
    """Prune a share of the coupled channels in place; with `heads`, of attention's heads too."""
    from midstate.compaction import coupled_channels
    from midstate.sparsity import Channel, Scope

    scope = Scope(skip_first=False, skip_depthwise=False)
    prune(model, Channel(sparsity, heads=heads), scope, coupled_channels(model, shape, heads))


def prune(model: Any, pattern: Any, scope: Any, coupled: Any = None) -> None:
    """Prune in place, at once and uniformly."""
    from midstate import sparsity
    from midstate.models import classifier_names

    method = sparsity.Method(
        scope, pattern, sparsity.L2(), sparsity.Uniform(), sparsity.Direct(), sparsity.Update(), sparsity.Hard()
    )
    schedule = sparsity.Schedule("one_shot", 0, 0)
    pruner = sparsity.Pruner(model, method, schedule, 1, 1, classifier=classifier_names(model), coupled=coupled)
    pruner.refresh(0)
    pruner.finalise()


def sizes(model: Any, images: Any) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of an image."""
    from midstate.compaction import weight_uses
    from midstate.sparsity import weight_layers

    uses = weight_uses(model, images)
    macs = sum(layer.weight.numel() * uses.get(layer.name, 0) for layer in weight_layers(model))
    return sum(each.numel() for each in model.parameters()), macs
