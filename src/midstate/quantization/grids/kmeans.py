"""One codebook for each layer: k-means on its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midstate.common import checks
from midstate.quantization.grids.levels import midpoints, nearest


@dataclass(frozen=True)
class KMeans:
    """2^b values a layer, the centres of k-means on its weights (Deep Compression, arXiv 1510.00149; HAQ for size).

    Lloyd's algorithm on the sorted weights; deterministic.

    Args:
        iterations: most iterations of a fit; it ends earlier when no centre moves.
    """

    iterations: int = 50
    bits: ClassVar[tuple[int, int]] = (1, 8)
    name: ClassVar[str] = "kmeans"

    def __post_init__(self) -> None:
        checks.integer("iterations", self.iterations, 1)

    def memory(self, weight: Tensor, bits: int) -> dict[str, Tensor]:
        """Tensors kept for a layer: its `codebook`, (256,), whose first 2^b entries are the values, ascending."""
        return {"codebook": torch.zeros(2 ** self.bits[1], dtype=weight.dtype, device=weight.device)}

    def fit(self, weight: Tensor, bits: int, memory: Mapping[str, Tensor]) -> None:
        """Fit the codebook to the non-zero weights, as masked weights are 0; without any, it stays as it is."""
        used = weight[weight != 0]
        if len(used):
            memory["codebook"].zero_()[: 2**bits].copy_(lloyd(used, 2**bits, self.iterations))

    def quantise(self, weight: Tensor, bits: int, memory: Mapping[str, Tensor]) -> Tensor:
        """The nearest value of the codebook, a new tensor like the weight."""
        return nearest(weight, memory["codebook"][: 2**bits].to(weight.dtype))

    def values(self, bits: int, memory: Mapping[str, Tensor]) -> Tensor:
        """All values of the grid, (1, 2^b)."""
        return memory["codebook"][None, : 2**bits]


def lloyd(x: Tensor, num: int, iterations: int) -> Tensor:
    """Centres of k-means in one dimension, ascending, (num,).

    Args:
        x: numbers, (n,), n at least 1.
        num: number of centres; if x has fewer different numbers, some centres get none.
        iterations: most iterations.
    """
    ordered = x.double().sort().values
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    centres = _first_centres(ordered, num)
    for _ in range(iterations):
        bounds = torch.searchsorted(ordered, midpoints(centres), right=True)
        bounds = torch.cat([bounds.new_zeros(1), bounds, bounds.new_full((1,), len(ordered))])
        counts = bounds.diff()
        means = (sums[bounds[1:]] - sums[bounds[:-1]]) / counts.clamp_min(1)
        moved = torch.where(counts > 0, means, centres)  # a centre without numbers stays
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres.sort().values.to(x.dtype)


def _first_centres(ordered: Tensor, num: int) -> Tensor:
    """Initial centres, as dense as the cube root of the numbers' density, optimal for many (Panter and Dite, 1951)."""
    bins = max(4, round(2 * len(ordered) ** (1 / 3)))  # Rice's rule
    edges = torch.linspace(float(ordered[0]), float(ordered[-1]), bins + 1, dtype=ordered.dtype, device=ordered.device)
    counts = torch.searchsorted(ordered, edges[1:-1].contiguous(), right=True)
    counts = torch.cat([counts.new_zeros(1), counts, counts.new_full((1,), len(ordered))]).diff()
    share = torch.cat([ordered.new_zeros(1), counts.double().pow(1 / 3).cumsum(0)])
    wanted = (torch.arange(num, dtype=ordered.dtype, device=ordered.device) + 0.5) / num * share[-1]
    at = torch.searchsorted(share, wanted).clamp(1, bins)
    within = (wanted - share[at - 1]) / (share[at] - share[at - 1]).clamp_min(1e-300)
    return edges[at - 1] + within * (edges[at] - edges[at - 1])
