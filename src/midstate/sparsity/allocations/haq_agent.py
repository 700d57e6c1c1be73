"""The agent of HAQ: deep deterministic policy gradients (DDPG), updated when an episode is over.

Its networks are small and run on the CPU whatever the model's device. All draws come from one seed, and a loaded agent
continues with the same bits.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from midstate.common import checks


@dataclass(frozen=True)
class Agent:
    """Settings of the agent; `DDPG` holds its state.

    Args:
        hidden: units of the two hidden layers of actor and critic.
        actor_lr: learning rate of the actor (Adam).
        critic_lr: learning rate of the critic (Adam).
        soft_update: share of the way that target networks move towards the trained ones at each update.
        agent_batch: transitions per update.
        replay: size of the replay memory, in transitions for each layer of the network.
        noise: standard deviation of the noise on actions right after the random episodes.
        noise_decay: factor on `noise` after each further episode.
        reward_memory: weight, 0..1, of a batch's mean reward in the running mean that is subtracted from rewards.
        discount: factor on the value of the next state.
    """

    hidden: tuple[int, int] = (300, 300)
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    soft_update: float = 0.01
    agent_batch: int = 64
    replay: int = 128
    noise: float = 0.5
    noise_decay: float = 0.99
    reward_memory: float = 0.5
    discount: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.hidden, list | tuple) or len(self.hidden) != 2:
            raise ValueError(f"hidden={self.hidden!r}: must be two numbers of units such as [300,300]")
        for units in self.hidden:
            checks.integer("hidden", units, 1)
        for name in ("actor_lr", "critic_lr", "noise"):
            checks.number(name, getattr(self, name), 0)
        for name in ("soft_update", "noise_decay", "reward_memory", "discount"):
            checks.number(name, getattr(self, name), 0, 1)
        for name in ("agent_batch", "replay"):
            checks.integer(name, getattr(self, name), 1)

    @property
    def settings(self) -> "Agent":
        """The agent's settings alone, without the other fields of a subclass."""
        return Agent(**{field.name: getattr(self, field.name) for field in fields(Agent)})


class Actor(nn.Module):
    """From states (N, size) to actions (N, 1), 0..1."""

    def __init__(self, size: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(size, hidden[0]), nn.ReLU(), nn.Linear(*hidden), nn.ReLU(), nn.Linear(hidden[1], 1), nn.Sigmoid()
        )

    def forward(self, states: Tensor) -> Tensor:
        """Return one action a state."""
        return self.layers(states)


class Critic(nn.Module):
    """From states (N, size) and actions (N, 1) to values (N, 1), with a first layer each, whose outputs are added."""

    def __init__(self, size: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.of_states, self.of_actions = nn.Linear(size, hidden[0]), nn.Linear(1, hidden[0])
        self.layers = nn.Sequential(nn.ReLU(), nn.Linear(*hidden), nn.ReLU(), nn.Linear(hidden[1], 1))

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return one value a pair."""
        return self.layers(self.of_states(states) + self.of_actions(actions))


class DDPG:
    """Actor, critic, their target networks and the replay memory; all float32 on the CPU."""

    def __init__(self, settings: Agent, state_size: int, num_layers: int, seed: int) -> None:
        """Begin untrained.

        Args:
            settings: of the agent.
            state_size: length of a state vector.
            num_layers: layers of the network whose levels are decided.
            seed: of initial weights, noise and batches.
        """
        self.settings, self.capacity = settings, settings.replay * num_layers
        self.generator = Generator().manual_seed(seed)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.actor, self.critic = Actor(state_size, settings.hidden), Critic(state_size, settings.hidden)
        self.targets = nn.ModuleDict({"actor": copy.deepcopy(self.actor), "critic": copy.deepcopy(self.critic)})
        self.adam = {
            "actor": torch.optim.Adam(self.actor.parameters(), settings.actor_lr, fused=True),
            "critic": torch.optim.Adam(self.critic.parameters(), settings.critic_lr, fused=True),
        }
        self.mean_reward: float | None = None
        # One row a transition: state, action, reward, next state, whether the episode ends.
        self.memory = torch.empty(0, 2 * state_size + 3)

    def random_action(self) -> float:
        """An action drawn uniformly from 0..1."""
        return float(torch.rand((), generator=self.generator, dtype=torch.float64))

    @torch.no_grad()
    def action(self, state: Tensor, sigma: float) -> float:
        """The actor's action with noise: a normal distribution around it, cut off at 0 and 1."""
        mean = float(self.actor(state.float()[None]))
        return truncated_normal(mean, sigma, self.random_action())

    def sigma(self, episodes: int) -> float:
        """Standard deviation of the noise, `episodes` after the random ones."""
        return self.settings.noise * self.settings.noise_decay**episodes

    def learn(self, states: Sequence[Tensor], actions: Sequence[float], reward: float, update: bool) -> None:
        """Remember an episode, every transition with its final reward, and make an update after each.

        Args:
            states: before each action.
            actions: 0..1.
            reward: of the episode.
            update: whether to update the networks; False during the random episodes.
        """
        following = [*states[1:], states[-1]]  # the state after the last action is not used
        for i, (state, action, after) in enumerate(zip(states, actions, following, strict=True)):
            numbers = torch.tensor([action, reward]), torch.tensor([float(i == len(actions) - 1)])
            row = torch.cat([state.float(), numbers[0], after.float(), numbers[1]])
            self.memory = torch.cat([self.memory, row[None]])[-self.capacity :]
            if update:
                self.update(self.batch())

    def batch(self) -> Tensor:
        """Remembered transitions, drawn without replacement if there are enough."""
        size, known = self.settings.agent_batch, len(self.memory)
        if known < size:
            return self.memory[torch.randint(known, (size,), generator=self.generator)]
        return self.memory[torch.randperm(known, generator=self.generator)[:size]]

    def update(self, batch: Tensor) -> None:
        """One step of critic and actor, and of their targets."""
        width = (batch.shape[1] - 3) // 2
        states, actions, rewards, after, last = batch.split([width, 1, 1, width, 1], dim=1)
        mean, share = float(rewards.mean()), self.settings.reward_memory
        self.mean_reward = mean if self.mean_reward is None else self.mean_reward + share * (mean - self.mean_reward)
        with torch.no_grad():
            following = self.targets["critic"](after, self.targets["actor"](after))
            wanted = rewards - self.mean_reward + self.settings.discount * (1 - last) * following
        self._step("critic", lambda: F.mse_loss(self.critic(states, actions), wanted))
        self._step("actor", lambda: -self.critic(states, self.actor(states)).mean())
        with torch.no_grad():
            for name, trained in (("actor", self.actor), ("critic", self.critic)):
                for target, own in zip(self.targets[name].parameters(), trained.parameters(), strict=True):
                    target.lerp_(own, self.settings.soft_update)

    def _step(self, name: str, loss: Callable[[], Tensor]) -> None:
        parameters = list(getattr(self, name).parameters())
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.adam[name].step()

    def state_dict(self) -> dict[str, Any]:
        """Copies of all state that is needed to continue with the same bits."""
        return copy.deepcopy(
            {
                "networks": {name: each.state_dict() for name, each in self._networks.items()},
                "adam": {name: each.state_dict() for name, each in self.adam.items()},
                "generator": self.generator.get_state(),
                "mean_reward": self.mean_reward,
                "memory": self.memory,
            }
        )

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore `state_dict`, from tensors on any device."""
        saved = _on_cpu(saved)
        for name, each in self._networks.items():
            each.load_state_dict(saved["networks"][name])
        for name, each in self.adam.items():
            each.load_state_dict(saved["adam"][name])
        self.generator.set_state(saved["generator"])
        self.mean_reward, self.memory = saved["mean_reward"], saved["memory"]

    @property
    def _networks(self) -> dict[str, nn.Module]:
        return {"actor": self.actor, "critic": self.critic, "targets": self.targets}


def truncated_normal(mean: float, sigma: float, uniform: float) -> float:
    """Inverse distribution function of a normal distribution that is truncated to 0..1.

    Args:
        mean: of the normal distribution, 0..1.
        sigma: its standard deviation; 0: the mean itself.
        uniform: probability, 0..1.
    """
    if sigma <= 0:
        return mean
    normal = NormalDist(mean, sigma)
    low, high = normal.cdf(0), normal.cdf(1)
    share = min(1 - 2**-53, max(2.0**-1000, low + uniform * (high - low)))  # inv_cdf needs 0 < share < 1
    return min(1.0, max(0.0, normal.inv_cdf(share)))


def _on_cpu(saved: Any) -> Any:
    """The same nested lists and dicts with copies of their tensors on the CPU."""
    if isinstance(saved, dict):
        return {key: _on_cpu(value) for key, value in saved.items()}
    if isinstance(saved, list | tuple):
        return type(saved)(_on_cpu(value) for value in saved)
    return saved.detach().cpu().clone() if isinstance(saved, Tensor) else saved
