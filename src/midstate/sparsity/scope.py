"""Scope: which tensors are pruned. A list of (module, tensor name), because not all tensors are named `weight`."""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils import parametrize

from midstate.common import checks
from midstate.sparsity.patterns.pattern import Pattern
from midstate.sparsity.tensors import Layer, is_depthwise, is_transposed, names_of, other_tensors, weight_layers

log = logging.getLogger(__name__)
INDIVISIBLE = ("skip", "pad", "error")
LEAST_SHARE = 0.01  # minimum share of a network's parameters for a warning
NAMED = 8  # maximum of tensors that a message names
# Names of the projection beside a residual block; the last two are torchvision's RegNet and MaxViT.
SHORTCUTS = ("shortcut", "downsample", ".proj.0", ".proj.1")


@dataclass(frozen=True)
class Scope:
    """Which layers are pruned.

    Args:
        skip_first: leave the first layer in module order dense.
        skip_classifier: leave the classifier dense.
        skip_depthwise: leave depthwise convolutions dense.
        skip_shortcuts: leave the projections of shortcuts dense: 1x1 convolutions with one of SHORTCUTS in their name.
        skip_linear: leave linear layers and attention projections dense.
        exclude: shell-style name patterns that stay dense, such as `layer1.*`.
        indivisible: what to do with layers whose input channels the pattern does not divide:
            skip (leave dense), pad (the partial last group of r channels keeps ceil(n*r/m)) or error.
        multiples: numbers, as hardware may require, that must divide a layer's outputs and inputs (dims 0 and 1 of
            its weight), or it stays dense; None: no condition.
        include: names, or name patterns, of tensors that are pruned whatever the rules above say, except `exclude`:
            layers, and any other floating parameter of two or more dimensions (of recurrent layers, embeddings,
            layers of unknown classes). Dim 1 of these other parameters counts as inputs. Transposed convolutions
            and Hugging Face's Conv1D, whose inputs are dim 0, are accepted with pattern=weight only.
            None: no further tensors.
    """

    skip_first: bool = True
    skip_classifier: bool = True
    skip_depthwise: bool = True
    skip_shortcuts: bool = False
    skip_linear: bool = False
    exclude: tuple[str, ...] = ()
    indivisible: str = "skip"
    multiples: tuple[int, int] | None = None
    include: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("skip_first", "skip_classifier", "skip_depthwise", "skip_shortcuts", "skip_linear"):
            checks.boolean(name, getattr(self, name))
        checks.one_of("indivisible", self.indivisible, INDIVISIBLE)
        checks.texts("exclude", self.exclude, "layer1.*")
        if self.multiples is not None:
            _check_multiples(self.multiples)
        if self.include is not None:
            checks.texts("include", self.include, "rnn.weight_*")

    def resolve(
        self, model: nn.Module, classifier: str | Collection[str] | None, pattern: Pattern | None
    ) -> list[Layer]:
        """List the layers of `model` to prune.

        Args:
            model: a plain model, nothing attached.
            classifier: name of its classifier, or names of its layers; None if it has none.
            pattern: decides which shapes are divisible; None accepts every shape.

        Raises:
            ValueError: nothing in scope, a classifier, exclude or include without a match, an indivisible layer under
                `indivisible=error`, or a tensor that cannot be pruned (such as tied, computed or weight-standardised).
        """
        layers, others = weight_layers(model), other_tensors(model)
        _check_patterns("exclude", self.exclude, [*layers, *others] if self.include else layers)
        _check_patterns("include", self.include or (), [*layers, *others])
        heads = names_of(classifier)
        if self.skip_classifier:
            _check_classifier(heads, layers)
        chosen = [layer for layer in layers if self._left_out(layer, layers, heads) is None]
        added = [layer for layer in others if self.includes(layer)]
        _warn_of_unknown(_unknown_layers(model, self), model)
        chosen += added
        _refuse_unprunable(chosen, model)
        if pattern is not None:
            _refuse_unknown(added, pattern)
        if pattern is not None and chosen:
            chosen, before = self._divisible(chosen, pattern), chosen
            if not chosen:
                raise ValueError(
                    f"scope: no layer is left to prune: m={pattern.m} divides the input channels of none of "
                    f"{[layer.name for layer in before]}; pruner.indivisible=pad keeps partial groups"
                )
        if not chosen:
            raise ValueError(f"scope: no layer is left to prune of {[layer.name for layer in layers]}")
        last = layers[-1] if layers else None
        if self.skip_classifier and not heads and last in chosen and isinstance(last.module, nn.Linear):
            log.warning(
                f"warning: classifier=None: none is known, so skip_classifier leaves none out, and {last.name}, the "
                "network's last layer, is pruned; if it is the classifier, give its name"
            )
        for layer in added if pattern is None else set(added) & set(chosen):
            _follow(layer.module)
        return chosen

    def left_dense(
        self, model: nn.Module, classifier: str | Collection[str] | None, pattern: Pattern
    ) -> list[tuple[Layer, str]]:
        """List the layers that `resolve` leaves out, each with the first reason that holds.

        Args:
            model: a plain model, or one with masks on.
            classifier: as for `resolve`.
            pattern: as for `resolve`.

        Returns:
            Pairs of a layer and `first`, `classifier`, `depthwise`, `linear`, `shortcut`, `exclude`, `multiples`,
            `indivisible` (M does not divide its input channels), or `unknown` (of no known class, and not included).
        """
        layers, heads = weight_layers(model), names_of(classifier)
        pairs = [(layer, self._left_out(layer, layers, heads)) for layer in layers]
        pairs += [(layer, "unknown") for layer in _unknown_layers(model, self)]
        pairs += [(layer, None) for layer in other_tensors(model) if self.includes(layer)]
        kept = self._divisible([layer for layer, why in pairs if why is None], pattern)
        return [(layer, why or "indivisible") for layer, why in pairs if why or layer not in kept]

    def includes(self, layer: Layer) -> bool:
        """Tell whether a layer is pruned because `include` names it."""
        return _matches(layer, self.include or ()) and not _matches(layer, self.exclude)

    def _left_out(self, layer: Layer, layers: list[Layer], classifier: frozenset[str]) -> str | None:
        """The reason why a layer stays dense; None if it does not."""
        if self.includes(layer):
            return None
        sizes = zip(layer.weight.shape, self.multiples or (), strict=False)
        reasons = {
            "first": self.skip_first and layer is layers[0],
            "classifier": self.skip_classifier and layer.name in classifier,
            "depthwise": self.skip_depthwise and is_depthwise(layer),
            "linear": self.skip_linear and not layer.is_conv,
            "shortcut": self.skip_shortcuts and any(word in layer.name for word in SHORTCUTS) and _is_1x1(layer),
            "exclude": _matches(layer, self.exclude),
            "multiples": any(size % each for size, each in sizes),
        }
        return next((why for why, holds in reasons.items() if holds), None)

    def _divisible(self, layers: list[Layer], pattern: Pattern) -> list[Layer]:
        indivisible = [layer for layer in layers if not pattern.divides(layer.weight.shape)]
        if indivisible and self.indivisible == "error":
            names = {layer.name: tuple(layer.weight.shape) for layer in indivisible}
            raise ValueError(f"indivisible='error': input channels not divisible by m={pattern.m} in {names}")
        return layers if self.indivisible == "pad" else [layer for layer in layers if layer not in indivisible]


def _matches(layer: Layer, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(layer.name, each) for each in patterns)


def _check_patterns(field: str, patterns: Collection[str], layers: list[Layer]) -> None:
    if unmatched := [each for each in patterns if not any(_matches(layer, [each]) for layer in layers)]:
        raise ValueError(f"{field}={unmatched}: matches no layer of {[layer.name for layer in layers]}")


def _check_multiples(multiples: object) -> None:
    if not isinstance(multiples, list | tuple) or len(multiples) != 2:
        raise ValueError(
            f"multiples={multiples!r}: must be two numbers, for outputs and inputs, such as [8,16]; or null"
        )
    for each in multiples:
        checks.integer("multiples", each, 1)


def _is_1x1(layer: Layer) -> bool:
    return layer.is_conv and set(layer.module.kernel_size) == {1}


def _unknown_layers(model: nn.Module, but: Scope) -> list[Layer]:
    """Weights of layers of unknown classes: of modules without submodules, and any that is large.

    Small parameters of a block beside its submodules (positions, tokens, scales) are not layers.
    """
    least = LEAST_SHARE * sum(p.numel() for p in model.parameters())
    return [
        layer
        for layer in other_tensors(model)
        if sum(size > 1 for size in layer.weight.shape) > 1
        and (not any(layer.module.children()) or layer.weight.numel() >= least)
        and not but.includes(layer)
    ]


def _warn_of_unknown(unknown: list[Layer], model: nn.Module) -> None:
    total = sum(p.numel() for p in model.parameters())
    share = sum(layer.weight.numel() for layer in unknown) / max(total, 1)
    if share < LEAST_SHARE:
        return
    names = [f"{layer.name} ({type(layer.module).__name__})" for layer in unknown]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    log.warning(
        f"warning: {', '.join(names[:NAMED])}{more}: {100 * share:.1f} % of the network's parameters are in tensors "
        "that are no convolution's, linear layer's or attention's, and stay dense; pruner.include takes them by name"
    )


def _refuse_unknown(added: list[Layer], pattern: Pattern) -> None:
    """Refuse tensors of unknown modules that a pattern would cut along the wrong dimension."""
    for layer in added:
        kind = type(layer.module).__name__
        if pattern.name != "weight" and is_transposed(layer.module):
            raise ValueError(
                f"include: {layer.name}: the weight of {kind} has its inputs in dim 0, and pattern={pattern.name} "
                "takes them from dim 1; pruner/pattern=weight prunes it, or leave it out"
            )
        if pattern.unit == "filter":
            raise ValueError(
                f"include: {layer.name}: what the rows of {kind}'s tensor make is not known, so they are no filters; "
                "leave it out, or choose another pattern"
            )


def _follow(module: nn.Module) -> None:
    """Make a recurrent layer look up its weights at every call; its own list of them would bypass the masks."""
    if isinstance(module, nn.RNNBase) and _look_up not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_look_up)


def _look_up(module: nn.RNNBase, inputs: tuple) -> None:
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def _check_classifier(names: frozenset[str], layers: Sequence[Layer]) -> None:
    """Refuse a classifier of which no layer exists: it would be pruned despite `skip_classifier`."""
    known = [layer.name for layer in layers]
    if names and names.isdisjoint(known):
        shown, meant = " or ".join(map(repr, sorted(names))), checks.near(sorted(names)[0], known)
        raise ValueError(f"classifier={shown}: no layer has that name{meant}; None where there is none")


def _parametrizations(layer: Layer) -> Iterable[nn.Module]:
    """The parametrizations of a layer's weight; empty if it is plain."""
    if not parametrize.is_parametrized(layer.module, layer.tensor_name):
        return ()
    return layer.module.parametrizations[layer.tensor_name]


def _refuse_unprunable(layers: list[Layer], model: nn.Module) -> None:
    # Counted by module: a module that is called at several places, or has several names, is one layer with one mask.
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    for layer in layers:
        if any(hasattr(each, "mask") for each in _parametrizations(layer)):
            raise ValueError(f"scope: {layer.name} has masks already, of another Pruner; finalise that first")
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
