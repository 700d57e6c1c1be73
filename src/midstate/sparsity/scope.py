"""Scope: which tensors are pruned. A list of (module, tensor name), so that no tensor hides from it."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from midstate.common import checks
from midstate.sparsity.patterns.pattern import Pattern

INDIVISIBLE = ("skip", "pad", "error")
# What model code calls the projection beside a residual block; the last two are torchvision's RegNet and MaxViT.
SHORTCUTS = ("shortcut", "downsample", ".proj.0", ".proj.1")


@dataclass(frozen=True)
class Layer:
    """One prunable tensor: `name` as a user reads it, `depth` its place among all weight tensors."""

    name: str
    module: nn.Module
    tensor_name: str
    depth: int

    @property
    def weight(self) -> Tensor:
        """The tensor as the network uses it."""
        return getattr(self.module, self.tensor_name)

    @property
    def input_index(self) -> int:
        """Which of the module's inputs the tensor reads: attention takes query, key and value."""
        return {"k_proj_weight": 1, "v_proj_weight": 2}.get(self.tensor_name, 0)

    @property
    def is_conv(self) -> bool:
        """Tell whether the tensor belongs to a convolution (channels in dim 1 of features), not a linear layer."""
        return isinstance(self.module, _ConvNd)


def weight_layers(model: nn.Module) -> list[Layer]:
    """List every convolution and linear weight of `model` in module order, attention's in_proj_weight too.

    Transposed convolutions are left out: their input channels are dim 0. So are layers without a weight, whose
    inputs or outputs are none.
    """
    layers: list[Layer] = []
    for module_name, module in model.named_modules():
        for tensor_name in _weight_names(module):
            name = f"{module_name}.{tensor_name}".removeprefix(".").removesuffix(".weight")
            if getattr(module, tensor_name).numel():
                layers.append(Layer(name, module, tensor_name, len(layers)))
    return layers


def names_of(classifier: str | Collection[str] | None) -> frozenset[str]:
    """A classifier's layers as a set, however they are given."""
    return frozenset([classifier] if isinstance(classifier, str) else classifier or ())


def _weight_names(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, nn.MultiheadAttention):
        if module.in_proj_weight is not None:
            return ("in_proj_weight",)
        return ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    if isinstance(module, _ConvNd | nn.Linear) and not isinstance(module, _ConvTransposeNd):
        return ("weight",)
    return ()


@dataclass(frozen=True)
class Scope:
    """Which layers are pruned.

    Args:
        skip_first: leave the first convolution (or patch embedding) dense.
        skip_classifier: leave the classifier dense.
        skip_depthwise: leave depthwise convolutions dense.
        skip_shortcuts: leave the projections of shortcuts dense: 1x1 convolutions with one of SHORTCUTS in their name.
        skip_linear: leave linear layers and attention projections dense.
        exclude: shell-style name patterns that stay dense, such as `layer1.*`.
        indivisible: what to do with layers whose input channels the pattern does not divide:
            skip (leave dense), pad (the partial last group of r channels keeps ceil(n*r/m)) or error.
        multiples: numbers of which a layer's outputs and inputs (sizes 0 and 1 of its weight) must be multiples, or
            it stays dense: what hardware asks for; None: any.
    """

    skip_first: bool = True
    skip_classifier: bool = True
    skip_depthwise: bool = True
    skip_shortcuts: bool = False
    skip_linear: bool = False
    exclude: tuple[str, ...] = ()
    indivisible: str = "skip"
    multiples: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("skip_first", "skip_classifier", "skip_depthwise", "skip_shortcuts", "skip_linear"):
            checks.boolean(name, getattr(self, name))
        checks.one_of("indivisible", self.indivisible, INDIVISIBLE)
        checks.texts("exclude", self.exclude, "layer1.*")
        if self.multiples is not None:
            _check_multiples(self.multiples)

    def resolve(
        self, model: nn.Module, classifier: str | Collection[str] | None, pattern: Pattern | None
    ) -> list[Layer]:
        """List the layers of `model` to prune.

        Args:
            model: a plain model, nothing attached.
            classifier: name of its classifier, or names of its layers; None if it has none.
            pattern: decides which shapes divide; None takes every shape.

        Raises:
            ValueError: nothing in scope, an exclude pattern without a match, an indivisible layer under
                `indivisible=error`, or a tensor that cannot be pruned (tied, computed or weight-standardised).
        """
        layers = weight_layers(model)
        if unmatched := [p for p in self.exclude if not any(fnmatchcase(layer.name, p) for layer in layers)]:
            raise ValueError(f"exclude={unmatched}: matches no layer of {[layer.name for layer in layers]}")
        classifier = names_of(classifier)
        chosen = [layer for layer in layers if self._wanted(layer, layers, classifier)]
        _refuse_unprunable(chosen, model)
        if pattern is not None and chosen:
            chosen, before = self._divisible(chosen, pattern), chosen
            if not chosen:
                raise ValueError(
                    f"scope: no layer is left to prune: m={pattern.m} divides the input channels of none of "
                    f"{[layer.name for layer in before]}; pruner.indivisible=pad keeps partial groups"
                )
        if not chosen:
            raise ValueError(f"scope: no layer is left to prune of {[layer.name for layer in layers]}")
        return chosen

    def _wanted(self, layer: Layer, layers: list[Layer], classifier: frozenset[str]) -> bool:
        module = layer.module
        depthwise = layer.is_conv and module.groups > 1 and module.weight.shape[1] == 1
        return not (
            (self.skip_first and layer is layers[0])
            or (self.skip_classifier and layer.name in classifier)
            or (self.skip_depthwise and depthwise)
            or (self.skip_linear and not layer.is_conv)
            or (self.skip_shortcuts and any(word in layer.name for word in SHORTCUTS) and _is_1x1(layer))
            or any(fnmatchcase(layer.name, p) for p in self.exclude)
            or any(size % each for size, each in zip(layer.weight.shape, self.multiples or (), strict=False))
        )

    def _divisible(self, layers: list[Layer], pattern: Pattern) -> list[Layer]:
        indivisible = [layer for layer in layers if not pattern.divides(layer.weight.shape)]
        if indivisible and self.indivisible == "error":
            names = {layer.name: tuple(layer.weight.shape) for layer in indivisible}
            raise ValueError(f"indivisible='error': input channels not divisible by m={pattern.m} in {names}")
        return layers if self.indivisible == "pad" else [layer for layer in layers if layer not in indivisible]


def _check_multiples(multiples: object) -> None:
    if not isinstance(multiples, list | tuple) or len(multiples) != 2:
        raise ValueError(
            f"multiples={multiples!r}: must be two numbers, for outputs and inputs, such as [8,16]; or null"
        )
    for each in multiples:
        checks.integer("multiples", each, 1)


def _is_1x1(layer: Layer) -> bool:
    return layer.is_conv and set(layer.module.kernel_size) == {1}


def _refuse_unprunable(layers: list[Layer], model: nn.Module) -> None:
    # remove_duplicate=False lists a shared module under each of its names.
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for layer in layers:
        if not isinstance(layer.weight, nn.Parameter):
            raise ValueError(
                f"scope: {layer.name} computes its weight from other tensors (weight or spectral norm, for one); "
                "what is zero there would not stay so: exclude it"
            )
        if owners[id(layer.weight)] > 1:
            raise ValueError(
                f"scope: {layer.name} shares its weight with another layer; tied tensors cannot be pruned: exclude it"
            )
        kind = type(layer.module).__name__
        if "StdConv" in kind:
            raise ValueError(
                f"scope: {layer.name} is a weight-standardised convolution ({kind}); "
                "standardising makes zeros non-zero: exclude it"
            )
