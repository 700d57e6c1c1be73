"""Heads of attention that no longer depend on the image: taken out whole, so that attention has fewer of them."""

import torch
from torch import Tensor, nn

from midstate.compaction.cutting import cut_layer


@torch.no_grad()
def remove_dead_heads(model: nn.Module) -> None:
    """Take dead heads out of every attention of timm's common kind, in place.

    Queries, keys and values of a dead head have no weight that is not zero: what attention makes of them is the values'
    bias, whatever the image. The output projection's bias takes that over. Where it has none, or no head lives, all
    stays as it is.
    """
    for module in model.modules():
        if _is_known(module):
            _remove(module)


def _is_known(module: nn.Module) -> bool:
    """Tell whether a module is an attention whose heads are made by `qkv`, read by `proj`, and by nothing else."""
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
    """What the output projection makes of the dead heads, (O,); None: nothing."""
    if attention.qkv.bias is None:
        return None
    values = attention.qkv.bias.view(3, attention.num_heads, -1)[2]
    values = values * ~living[:, None]
    return attention.proj.weight @ values.flatten() if values.any() else None
