"""Removal of whole attention heads that no longer depend on the image."""

import torch
from torch import Tensor, nn

from midstate.compaction.cutting import cut_layer


@torch.no_grad()
def remove_dead_heads(model: nn.Module) -> None:
    """Remove dead heads from every `timm.layers.attention.Attention`, in place.

    All weights of a dead head's queries, keys and values are zero: for every image its output is the values' bias. The
    bias of `proj` takes over what `proj` makes of this constant. A module stays as it is if `proj` lacks a bias and the
    constant is not zero, if no head lives, or if the module has a gate or a norm before `proj`.
    """
    for module in model.modules():
        if _is_known(module):
            _remove(module)


def _is_known(module: nn.Module) -> bool:
    """Tell whether a module is timm's attention and only `qkv` makes its heads and only `proj` reads them."""
    kind = type(module)
    if (kind.__name__, kind.__module__) != ("Attention", "timm.layers.attention") or not hasattr(module, "attn_dim"):
        return False
    if not isinstance(module.norm, nn.Identity) or module.gate is not None:
        return False
    return type(module.qkv) is nn.Linear and type(module.proj) is nn.Linear


def _remove(attention: nn.Module) -> None:
    by_head = attention.qkv.weight.unflatten(0, (3, attention.num_heads, attention.head_dim))
    living = by_head.movedim(1, 0).flatten(1).any(1)
    if living.all() or not living.any():
        return
    added = _constants(attention, living)
    if added is not None:
        if attention.proj.bias is None:
            return
        attention.proj.bias += added
    kept = living.repeat_interleave(attention.head_dim).nonzero().flatten()
    whole, every = torch.arange(attention.qkv.in_features), torch.arange(attention.proj.out_features)
    rows = living.repeat_interleave(attention.head_dim).repeat(3).nonzero().flatten()
    attention.qkv = cut_layer(attention.qkv, whole.to(rows.device), rows).module
    attention.proj = cut_layer(attention.proj, kept, every.to(rows.device)).module
    attention.num_heads = int(living.sum())
    attention.attn_dim = attention.num_heads * attention.head_dim


def _constants(attention: nn.Module, living: Tensor) -> Tensor | None:
    """Contribution (O,) of the dead heads to the output projection; None: nothing."""
    if attention.qkv.bias is None:
        return None
    values = attention.qkv.bias.view(3, attention.num_heads, -1)[2]
    values = values * ~living[:, None]
    return attention.proj.weight @ values.flatten() if values.any() else None
