"""Accuracy and loss."""

import torch
from torch import nn
from torch.nn import functional as F

from midstate.data import Split
from midstate.sparsity.calibration import EVAL_BATCH, evaluation


@torch.no_grad()
def evaluate(model: nn.Module, split: Split) -> dict[str, float]:
    """Return mean `loss`, and `top1` and `top5` in percent, over a split; leaves the training mode as it was."""
    totals, count = torch.zeros(3, dtype=torch.float64), 0
    with evaluation(model):
        for images, labels in split.batches(EVAL_BATCH):
            logits = model(images)
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            totals += (
                torch.stack([F.cross_entropy(logits, labels, reduction="sum"), ranked[:, 0].sum(), ranked.sum()])
                .double()
                .cpu()
            )
            count += len(labels)  # of images in files some may be left out
    loss, top1, top5 = (totals / count).tolist()
    return {"loss": loss, "top1": 100 * top1, "top5": 100 * top5}
