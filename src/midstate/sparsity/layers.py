"""One layer as every axis sees it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from midstate.common.seeds import seed_for
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern
from midstate.sparsity.search import Search

# Measurements that a member may ask for by `needs`.
NEEDS = ("gradient", "fisher", "hessian_trace", "step_gradient", "input_norm", "batchnorm_scale", "loss", "trial")
MEASURED = ("gradient", "fisher", "hessian_trace", "input_norm", "loss", "trial")  # those made on training images


class NotMeasured(ValueError):
    """A member reads a measurement that its `needs` does not name."""

    def __init__(self, field: str) -> None:
        super().__init__(f"layer.{field}: nothing was measured; a member that looks at it has needs = ({field!r},)")
        self.field = field


@dataclass(frozen=True, eq=False)
class LayerView:
    """One layer with its measurements; each is made when first asked for, and then shared.

    O is the number of output filters, C of input channels (of one group), K of kernel positions.

    Args:
        parameter: the hidden weight, as the optimizer has it (without mask), (O, C) or (O, C, *K).
        name: as a user reads it.
        index: place among the layers in scope, from 0.
        macs: multiply-accumulates of one weight on one image.
        is_first: whether it is the first of all weight tensors.
        is_classifier: whether it is (a part of) the classifier.
        stride: stride of a convolution along its first axis; 1 for other layers.
        is_depthwise: whether it is a convolution with several groups of one input channel each.
        is_conv: whether it is a convolution at all.
        level: the target, in the pattern's levels; None while it is being decided.
        in_force: the mask, bool, of the weight's shape; None: nothing is pruned yet.
        step: the optimizer step that comes next, from 0.
        seed: seed of all random draws.
        memory: the estimator's tensors for the layer, by name.
        score_of: computes scores of the pattern's units, see `score`.
        loss_of: measures the loss at a level, see `loss`.
        cost_of: cost of a level in a budget, a whole number; None: counted by the pattern, see `cost`.
        error_of: error of a level, see `error`; None: counted by the pattern.
        search: tries whole schemes, one object for all layers; see `Search`.
        measure: functions that return the measured tensor, by name from `NEEDS`.
        generators: returns a generator for a purpose; None: see `generator`.
    """

    parameter: Tensor
    name: str = "layer"
    index: int = 0
    macs: int = 1
    is_first: bool = False
    is_classifier: bool = False
    stride: int = 1
    is_depthwise: bool = False
    is_conv: bool = True
    level: Level | None = None
    in_force: Tensor | None = None
    step: int = 0
    seed: int = 0
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    score_of: "Callable[[LayerView], Tensor] | None" = None
    loss_of: "Callable[[LayerView, Level], float] | None" = None
    cost_of: "Callable[[LayerView, Level, str], int] | None" = None
    error_of: "Callable[[LayerView, Level], float] | None" = None
    search: Search | None = None
    measure: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    generators: Callable[..., Generator] | None = None

    @property
    def weight(self) -> Tensor:
        """The hidden weight, (O, C) or (O, C, *K), detached; do not change it."""
        return self.parameter.detach()

    @property
    def shape(self) -> torch.Size:
        """Shape of the weight."""
        return self.parameter.shape

    @property
    def mask(self) -> Tensor:
        """The mask in force, bool, of the weight's shape."""
        if self.in_force is None:
            return torch.ones((), dtype=torch.bool, device=self.parameter.device).expand(self.shape)
        return self.in_force

    def num_units(self, pattern: Pattern) -> int:
        """Number of units that are scored."""
        return pattern.units(torch.empty(self.shape, device="meta")).numel()

    def generator(self, *purpose: object) -> Generator:
        """A new generator for a purpose, such as "criterion": the same draws at every call, others in each layer."""
        if self.generators is not None:
            return self.generators(*purpose)
        first, *rest = purpose
        return Generator().manual_seed(seed_for(self.seed, first, self.index, *rest))

    def score(self) -> Tensor:
        """Scores of the pattern's units by the method's criterion and update, a new tensor at each call."""
        return self._of("score", self.score_of)(self)

    def loss(self, level: Level) -> float:
        """Mean loss on the sample with this layer alone at a level, every other layer as it is."""
        return self._of("loss", self.loss_of)(self, level)

    @property
    def gradient(self) -> Tensor:
        """Gradient of the mean loss on the sample, of the weight's shape, pruned weights included.

        The network is evaluated under the masks in force. The gradient with respect to the weight that the layer uses
        is passed to the hidden weight unchanged (straight-through), whatever the estimator.
        """
        return self._measured("gradient")

    @property
    def fisher(self) -> Tensor:
        """Diagonal of the empirical Fisher: mean squared gradient of single images' losses, of the weight's shape."""
        return self._measured("fisher")

    @property
    def hessian_trace(self) -> float:
        """Estimated trace (Hutchinson) of the Hessian of the sample's mean loss with respect to the layer's weights."""
        return float(self._measured("hessian_trace"))

    @property
    def step_gradient(self) -> Tensor:
        """|gradient| of the last step's batch, of the weight's shape, pruned weights included."""
        return self._measured("step_gradient")

    @property
    def input_norm(self) -> Tensor:
        """Root mean square of each input channel on the sample, (C,); C counts all groups of a grouped convolution."""
        return self._measured("input_norm")

    @property
    def batchnorm_scale(self) -> Tensor:
        """Gamma of the BatchNorm that reads the layer, (O,), the parameter itself."""
        return self._measured("batchnorm_scale")

    def cost(self, pattern: Pattern, level: Level, budget: str) -> int:
        """Cost of a level in `params`, `macs` or `units`, or in another budget of a quantizer."""
        if self.cost_of is not None:
            return self.cost_of(self, level, budget)
        if budget == "units" and pattern.unit == "filter":
            return level
        return pattern.kept(self.shape, level) * (self.macs if budget == "macs" else 1)

    def error(self, pattern: Pattern, level: Level) -> float:
        """Share of the layer's squared weights that a level prunes; of a quantizer, its squared error as a share."""
        if self.error_of is not None:
            return self.error_of(self, level)
        return float(self.filter_errors(pattern, [level]).sum())

    def filter_errors(self, pattern: Pattern, levels: Sequence[Level]) -> Tensor:
        """Share of the layer's squared weights that each level prunes, by filter: (O, levels)."""
        squares, score = self.weight.double().square(), self.score()
        gone = [
            squares.where(~pattern.expand(pattern.mask(score, level), self.shape), 0).flatten(1).sum(1)
            for level in levels
        ]
        return (torch.stack(gone, 1) / squares.sum().clamp_min(1e-300)).cpu()

    def _measured(self, name: str) -> Tensor:
        return self._of(name, self.measure.get(name))()

    def _of(self, name: str, found: Any) -> Any:
        if found is None:
            raise NotMeasured(name)
        return found
