"""A quantisation method: one member of each axis, and checks that the members go together."""

from dataclasses import dataclass

from midstate.common import checks, limits
from midstate.common.times import check_interval, steps_of
from midstate.quantization.allocation import BitScheme, Gates
from midstate.quantization.bits import BUDGETS
from midstate.quantization.estimators.base import Estimator
from midstate.quantization.latency import Latency
from midstate.quantization.paths import Jump, StepBits
from midstate.quantization.scope import Scope
from midstate.sparsity.allocations.base import Allocation

PROTOCOLS = {  # attributes that a member of each axis must have
    "scope": ("resolve", "first_bits", "last_bits"),
    "estimator": ("grids", "memory", "start", "refit", "apply", "values", "before_step"),
    "activation": ("bits", "inputs", "memory", "start", "apply", "fixed"),
    "allocation": ("allocate", "check_layers", "uniform", "needs", "refresh"),
    "path": ("window", "num_jumps", "bits_at"),
}
OF_INPUTS = ("sensitivity", "file")  # scores that also see the effect of input bits
FITTED = ("bits", "memory", "fit", "quantise", "values")  # attributes of a grid that can be fitted to weights


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """The axes of a quantisation method.

    Args:
        scope: which layers are quantised, and fixed bits of the first and the last.
        estimator: estimator of weights, with its grid.
        allocation: number of bits of each layer.
        path: bits in force between 32 and the target.
        activation: estimator of inputs; needed if `activation_bits` is set.
        weight_bits: bits of the uniform allocation; without `target`, their cost is the budget of other allocations.
        activation_bits: bits of every layer's inputs; null: inputs are not quantised.
        levels: bits that an allocation may choose from; null: all that the estimators have.
        budget: what an allocation may spend: `size`, `bitops` or `latency`.
        target: share of the 32-bit size, or of the bitops or latency at 8 bits; layers with fixed bits count, too.
        latency: a file of microseconds of each layer at each pair of bits, see `Latency`; for budget=latency.
        activation_decay: weight decay of the clips of inputs (PACT's L2).
        every: how often grids are fitted to the weights: steps ('100it') or epochs ('1ep').

    Raises:
        ValueError: two members do not go together, or bits are out of their range.
    """

    scope: Scope
    estimator: Estimator
    allocation: Allocation
    path: Jump | StepBits
    activation: Estimator | None = None
    weight_bits: int = 8
    activation_bits: int | None = None
    levels: tuple[int, ...] | None = None
    budget: str = "size"
    target: float | None = None
    latency: str | None = None
    activation_decay: float = 0.0
    every: str = "1ep"

    def __post_init__(self) -> None:
        for axis, member in self.members.items():
            check_has(axis, member, PROTOCOLS[axis])
        limits.levels(self.levels)
        self._check_grid()
        low, high = self.estimator.bits
        checks.integer("weight_bits", self.weight_bits, low, high)
        if isinstance(self.path, StepBits):
            checks.integer("path_bits", self.path.max_bits, low, high)
        if self.activation_bits is not None:
            self._check_activation()
        self._check_fixed_bits()
        self._check_members()
        self._check_budget()
        checks.number("activation_decay", self.activation_decay, 0)
        check_interval("every", self.every)

    @property
    def quantises_inputs(self) -> bool:
        """Tell whether inputs are quantised."""
        return self.activation_bits is not None

    @property
    def choices(self) -> tuple[int, ...]:
        """Bits that an allocation may choose from, ascending."""
        low, high = self.estimator.bits
        if self.pairs:
            low, high = max(low, self.activation.bits[0]), min(high, self.activation.bits[1])
        return tuple(sorted(set(self.levels))) if self.levels else tuple(range(low, high + 1))

    @property
    def pairs(self) -> bool:
        """Tell whether the allocation also chooses bits of inputs, which it does if the budget counts them."""
        return getattr(self.allocation, "pairs", False) and self.budget != "size" and self.quantises_inputs

    @property
    def members(self) -> dict[str, object]:
        """The members of its axes, by axis."""
        axes = ("scope", "estimator", "activation", "allocation", "path")
        return {axis: member for axis in axes if (member := getattr(self, axis)) is not None}

    def both(self, bits: int) -> tuple[int, int | None]:
        """Bits of weights and inputs of a layer whose bits are fixed."""
        return bits, bits if self.quantises_inputs else None

    def gates_from(self, steps_per_epoch: int, total_steps: int) -> int:
        """The step from which gates learn; 0 for methods without gates."""
        from_time = getattr(self.allocation, "gates_from", 0)
        return steps_of("gates_from", from_time, steps_per_epoch, total_steps)

    def pairs_to_time(self) -> list[tuple[int, int]]:
        """Pairs of bits whose latency a table must have."""
        inputs = self.choices if self.pairs else (self.activation_bits,)
        return [(weight, activation) for weight in self.choices for activation in inputs]

    def latencies(self) -> Latency | None:
        """Read the table of latencies; None: the budget is not latency."""
        return Latency.read(self.latency) if self.budget == "latency" else None

    def _check_activation(self) -> None:
        if self.activation is None:
            raise ValueError(f"activation_bits={self.activation_bits}: needs quantizer/activation; or set it to null")
        if not self.activation.inputs:
            raise ValueError(f"activation={type(self.activation).__name__}: is for weights; inputs have pact, lsq, ddq")
        checks.integer("activation_bits", self.activation_bits, *self.activation.bits)
        most = self.activation.bits[1]
        if isinstance(self.path, StepBits) and self.path.max_bits > most:
            raise ValueError(
                f"path_bits={self.path.max_bits}: activation={type(self.activation).__name__} has {most} bits at most; "
                f"quantizer.path_bits={most}"
            )

    def _check_fixed_bits(self) -> None:
        """Refuse bits of the first and the last layer that weights, or inputs, cannot have."""
        low, high = self.estimator.bits
        if self.estimator.learns_bits:
            high = 8  # fixed bits are not learned: the number of gates is no limit
        if self.quantises_inputs:
            low = max(low, self.activation.bits[0])
        for name in ("first_bits", "last_bits"):
            if getattr(self.scope, name) is not None:
                checks.integer(name, getattr(self.scope, name), low, high)

    def _check_members(self) -> None:
        learns, by_gates = self.estimator.learns_bits, isinstance(self.allocation, Gates)
        if learns and not by_gates:
            raise ValueError(
                f"allocation={type(self.allocation).__name__}: estimator={type(self.estimator).__name__} finds the "
                "bits itself; quantizer/allocation=gates, or another estimator"
            )
        if by_gates and not learns:
            raise ValueError(
                f"allocation=Gates: estimator={type(self.estimator).__name__} has no gates; quantizer/estimator=ddq "
                "quantizer/grid=levels, or another allocation"
            )
        if by_gates and self.budget != "size":
            raise ValueError(f"budget={self.budget!r}: allocation=Gates counts the bits of weights; budget=size")
        score = getattr(self.allocation, "score", None)
        if self.pairs and score not in (None, *OF_INPUTS):
            raise ValueError(
                f"score={score!r}: knows weights only, and with budget={self.budget!r} bits of inputs are chosen, too; "
                f"use quantizer.score={' or '.join(OF_INPUTS)}, or quantizer.activation_bits=null"
            )
        if learns and isinstance(self.path, StepBits):
            raise ValueError("path=bits: gates close when training closes them; quantizer/path=direct")

    def _check_grid(self) -> None:
        grid = getattr(self.estimator, "grid", None)
        name = getattr(grid, "name", grid and type(grid).__name__)
        if name in self.estimator.grids:
            return
        kinds = " or ".join(self.estimator.grids)
        if grid is None or not self.estimator.any_grid:
            raise ValueError(f"grid={name}: estimator={type(self.estimator).__name__} is for grid={kinds}")
        if missing := [each for each in FITTED if not hasattr(grid, each)]:
            raise ValueError(
                f"grid={name}: estimator={type(self.estimator).__name__} is for grid={kinds}, or one of your own that "
                f"has {', '.join(FITTED)}; this one has no {', '.join(missing)}"
            )

    def _check_budget(self) -> None:
        checks.one_of("budget", self.budget, BUDGETS)
        if self.target is not None and not checks.number("target", self.target, 0, 1) > 0:
            raise ValueError(f"target={self.target}: must be above 0")
        if self.levels is not None:
            low, high = self.estimator.bits
            for each in self.levels:
                checks.integer("levels", each, low, high)
            chooses = self.allocation.uniform or hasattr(self.allocation, "levels")
            if not chooses and len(self.choices) <= self.choices[-1] - self.choices[0]:
                raise ValueError(
                    f"levels={list(self.levels)}: allocation={type(self.allocation).__name__} gives any bits between "
                    "the fewest and the most of them; budget, haq and random_search choose from a list"
                )
        if self.budget == "latency" and not self.quantises_inputs:
            raise ValueError("budget=latency: is of bits of weights and inputs; set activation_bits, too")
        if self.budget == "latency" and self.latency is None:
            raise ValueError("budget=latency: needs a table, quantizer.latency=FILE; scripts/latency.py makes one")
        if self.budget != "latency" and self.latency is not None:
            raise ValueError(
                f"latency={self.latency!r}: only budget=latency reads it, and this is budget={self.budget}"
            )
        own_budget = self.allocation.uniform or isinstance(self.allocation, BitScheme)
        if own_budget and self.target is not None:
            raise ValueError(
                f"target={self.target}: allocation={type(self.allocation).__name__} gives the bits that are asked for, "
                "whatever they cost; leave it out, or choose quantizer/allocation=budget, haq, random or reversed"
            )


def check_has(axis: str, member: object, needed: tuple[str, ...]) -> None:
    """Refuse an object that is no member of an axis.

    Raises:
        ValueError: a file built nothing, or an attribute is missing.
    """
    if isinstance(member, dict):
        raise ValueError(
            f"{axis}: its file builds none; it needs `# @package quantizer` as its very first line and a node "
            f"`{axis}:` with a `_target_` of that kind"
        )
    if missing := [name for name in needed if not hasattr(member, name)]:
        raise ValueError(f"{axis}: {type(member).__name__} has no {', '.join(missing)}, which every {axis} has")
