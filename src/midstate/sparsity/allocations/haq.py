"""HAQ (Wang et al., CVPR 2019): an agent proposes schemes, each is tried, and the agent learns from its accuracy.

HAQ was made for bits of weights and activations; here it decides any levels: the N of N:M, filters, bits.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from midstate.common import checks, limits
from midstate.common.seeds import seed_for
from midstate.sparsity.allocations.base import Allocation, check_budget, limit, options_of
from midstate.sparsity.allocations.fitting import check_lowest
from midstate.sparsity.allocations.haq_agent import DDPG, Agent
from midstate.sparsity.allocations.haq_states import Space, features
from midstate.sparsity.kernels.selection import Unrankable
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern
from midstate.sparsity.search import Search, plain_levels
from midstate.sparsity.trials import Finetune

log = logging.getLogger(__name__)
Propose = Callable[[int], list[float]]  # from the number of an episode to its actions
Learn = Callable[[list[float], float], Any]  # from actions and their reward to the state to resume from
SCALE = 0.1  # reward per percentage point of top-1 above the dense network's


@dataclass(frozen=True)
class _Trying(Finetune, Allocation):
    """Base of allocations that try whole schemes: episodes, the repair to the budget, and the best of all.

    Args:
        episodes: number of schemes to try.
        repair: order in which levels are lowered where a scheme exceeds the budget: the `deepest` layers first (as in
            HAQ's released code), the `shallowest`, or by `cost` the most expensive. Every sweep goes over
            all layers; the last one stops as soon as the budget is met.
        levels: levels to choose from, see `Budget`.
        budget: `params` or `macs`; of a quantizer `size`, `bitops` or `latency`.
    """

    episodes: int = 600
    repair: str = "deepest"
    levels: tuple[int, ...] | None = None
    budget: str = "params"
    refresh: ClassVar[str] = "once"
    needs: ClassVar[tuple[str, ...]] = ("trial",)
    pairs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.tried(vars(self))

    def check_layers(self, pattern: Pattern, layers: Sequence[LayerView]) -> None:
        """Raise ValueError if even the lowest levels exceed the budget, or if the pattern has no such budget."""
        check_budget(pattern, self.budget)
        space = self.space(pattern, layers)
        lowest = [tuple(part[0] for part in each) if space.pairs else each[0][0] for each in space.choices]
        check_lowest(pattern, layers, lowest, self.budget)

    def space(self, pattern: Pattern, layers: Sequence[LayerView]) -> Space:
        """The schemes that these layers may have."""
        options = [options_of(pattern, layer, self.levels) for layer in layers]
        allowed = limit(pattern, layers, self.budget)
        return Space.of(options, lambda i, level: layers[i].cost(pattern, level, self.budget), allowed)

    def run(self, search: Search, space: Space, propose: Propose, learn: Learn) -> list[Level]:
        """Run the remaining episodes; return the best scheme of all.

        Args:
            search: tries schemes; its rows are the finished episodes.
            space: of schemes.
            propose: gives an episode's actions.
            learn: takes actions and their reward, and gives the state to resume from.

        Raises:
            Unrankable: a trial has diverged, or outputs of the network itself are not finite.
        """
        dense = search.state.get("dense_top1")
        dense = search.dense_top1() if dense is None else dense
        if not math.isfinite(dense):
            raise Unrankable(
                "outputs of the network that the search begins from are NaN or infinite: no scheme can be tried"
            )
        for episode in range(len(search.rows), self.episodes):
            actions = propose(episode)
            levels = space.levels(actions, self.repair)
            top1 = search.top1(levels)
            reward = SCALE * (top1 - dense)
            cost = sum(space.cost(i, level) for i, level in enumerate(levels))
            best = max([reward, *(row["reward"] for row in search.rows)])
            numbers = {"reward": reward, "top1": top1, "cost": cost, "limit": space.limit, "best": best}
            state = {"dense_top1": dense, "agent": learn(actions, reward)}
            search.state = state  # state and row together: the search cannot be stopped between these two
            search.rows.append({"episode": episode + 1, **numbers, "levels": plain_levels(levels)})
        return self._best(search, space)

    def _best(self, search: Search, space: Space) -> list[Level]:
        """Return the first of the best schemes, and drop the agent's state."""
        best = max(search.rows, key=lambda row: row["reward"])
        search.state = {"dense_top1": search.state["dense_top1"]}
        different = len({str(row["levels"]) for row in search.rows})
        log.info(
            f"tried {different} schemes in {len(search.rows)} episodes; the best, of episode {best['episode']}, has "
            f"{best['top1']:.2f} % top-1 on held-out training images, and the network at full levels "
            f"{search.state['dense_top1']:.2f} %"
        )
        return [tuple(level) if space.pairs else level for level in best["levels"]]


@dataclass(frozen=True)
class HAQ(_Trying, Agent):
    """Levels that an agent has found by trying (arXiv 1811.08886).

    Args:
        warmup: episodes of random actions, without updates, at the beginning.
    """

    warmup: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        Agent.__post_init__(self)
        checks.integer("warmup", self.warmup, 0)

    def allocate(self, pattern: Pattern, layers: Sequence[LayerView]) -> list[Level]:
        """One target level a layer."""
        search, space, of_layers = searched(layers), self.space(pattern, layers), features(layers)
        agent = DDPG(self.settings, space.state_size, len(layers), seed_for(layers[0].seed, "haq"))
        if search.state.get("agent") is not None:
            agent.load_state_dict(search.state["agent"])

        def propose(episode: int) -> list[float]:
            actions: list[float] = []
            for _ in space.parts:
                if episode < self.warmup:
                    actions.append(agent.random_action())
                else:
                    state = space.states(of_layers, actions)[-1]
                    actions.append(agent.action(state, agent.sigma(episode - self.warmup)))
            return actions

        def learn(actions: list[float], reward: float) -> dict[str, Any]:
            states: list[Tensor] = space.states(of_layers, actions)
            agent.learn(states, actions, reward, update=len(search.rows) >= self.warmup)
            return agent.state_dict()

        return self.run(search, space, propose, learn)


@dataclass(frozen=True)
class RandomSearch(_Trying):
    """The best of random schemes, tried and repaired as HAQ's: a control for an agent with as many episodes."""

    def allocate(self, pattern: Pattern, layers: Sequence[LayerView]) -> list[Level]:
        """One target level a layer."""
        search, space, seed = searched(layers), self.space(pattern, layers), layers[0].seed

        def propose(episode: int) -> list[float]:
            generator = Generator().manual_seed(seed_for(seed, "random_search", episode))
            return torch.rand(len(space.parts), generator=generator, dtype=torch.float64).tolist()

        return self.run(search, space, propose, lambda actions, reward: None)


def searched(layers: Sequence[LayerView]) -> Search:
    """The `Search` that tries schemes of these layers.

    Raises:
        ValueError: there is none.
    """
    if layers[0].search is None:
        raise ValueError("layer.search: nothing tries schemes; a member that does has needs = ('trial',)")
    return layers[0].search
