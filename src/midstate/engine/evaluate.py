"""Accuracy and loss."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from midstate.common.errors import RunFailed
from midstate.data import Split
from midstate.distributed.processes import ALONE, Processes
from midstate.sparsity.observe import EVAL_BATCH, evaluation


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, processes: Processes = ALONE) -> dict[str, float]:
    """Return mean `loss`, and `top1` and `top5` in percent, over a split; leaves the training mode as it was.

    Args:
        model: the same in all processes.
        split: what to measure on.
        processes: the processes that share the work.

    Raises:
        RunFailed: no image of the split can be read.
    """
    totals, num_images = torch.zeros(3, dtype=torch.float64), 0
    with evaluation(model), parametrize.cached():  # cached: weights are masked once, not for every batch
        for images, labels in split.batches(EVAL_BATCH, processes.rank, processes.size):
            logits = model(images)
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            totals += (
                torch.stack([F.cross_entropy(logits, labels, reduction="sum"), ranked[:, 0].sum(), ranked.sum()])
                .double()
                .cpu()
            )
            num_images += len(labels)  # damaged image files may be skipped
    *totals, num_images = processes.sum([*totals.tolist(), num_images])
    if not num_images:
        raise RunFailed("no image of a split can be read")
    loss, top1, top5 = (total / num_images for total in totals)
    return {"loss": loss, "top1": 100 * top1, "top5": 100 * top5}
