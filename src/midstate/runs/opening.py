"""The lines that a run begins with: network, data, what is pruned and what stays dense, length, directory."""

from collections.abc import Iterable

from torch import nn

from midstate.engine.session import Session
from midstate.models import classifier_names
from midstate.runs.plan import Plan
from midstate.sparsity import Pruner, weight_layers

NAMED = 4  # dense layers that the line names at most


def opening(plan: Plan, session: Session) -> str:
    """The lines that a run prints before training: aligned names and values."""
    data, settings, batches = session.data, session.settings, session.batches
    network = plan.choices["model"] + (f" ({plan.model_name})" if plan.model_name != plan.choices["model"] else "")
    counts = ", ".join(
        f"{len(split):,} {name}"
        for name, split in (("training", data.train), ("validation", data.validation), ("test", data.test))
    )
    shape = "x".join(map(str, data.shape))
    lines = [
        ("network", f"{network}, {_num_parameters(session.model):,} parameters"),
        ("data", f"{plan.choices['data']}: {counts} images of {shape}, {data.num_classes} classes"),
        *_scope(session.pruner, session),
        (
            "training",
            f"{settings.epochs} epochs of {batches.steps_per_epoch:,} steps, batch {batches.batch_size}, "
            f"{settings.device}, seed {plan.seed}",
        ),
        ("directory", str(plan.directory)),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def _num_parameters(model: nn.Module) -> int:
    """Parameters of the network itself, without those that an estimator has added."""
    named = [(name, parameter.numel()) for name, parameter in model.named_parameters()]
    return sum(count for name, count in named if ".parametrizations." not in name or name.endswith(".original"))


def _scope(pruner: Pruner, session: Session) -> Iterable[tuple[str, str]]:
    """Layers in scope, and layers that stay dense."""
    layers = weight_layers(session.model)
    if pruner.method.dense:
        yield "pruning", "none, all layers stay dense"
        return
    chosen = {layer.name for layer in pruner.layers}
    sizes = {layer.name: layer.weight.numel() for layer in layers}
    in_scope = sum(layer.weight.numel() for layer in pruner.layers)
    share = 100 * in_scope / max(1, sum(sizes.values()))
    yield "in scope", f"{len(chosen)} of {len(layers)} layers, {in_scope:,} weights ({share:.1f} %)"
    dense = [name for name in sizes if name not in chosen]
    if dense:
        heads = classifier_names(session.model)
        named = [f"{name} (classifier)" if name in heads else name for name in (*dense[: NAMED - 1], dense[-1])]
        more = f" and {len(dense) - len(set(named))} more" if len(dense) > NAMED else ""
        yield "stay dense", f"{', '.join(dict.fromkeys(named))}{more}"
