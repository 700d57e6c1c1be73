"""HAQ against what is written down by hand: states, actions, repair, the agent's update, the same bits after a stop."""

import math

import pytest
import torch
from test_options import Bits, bits_layers
from torch import Generator
from torch.nn import functional as F

from midstate.sparsity import HAQ, NM, LayerView, RandomSearch, Unrankable
from midstate.sparsity.allocations.haq_agent import DDPG, Agent, truncated_normal
from midstate.sparsity.allocations.haq_states import Space, features, to_index
from midstate.sparsity.search import COLUMNS, Search

BITS = list(range(2, 9))


@pytest.mark.parametrize(
    ("action", "values", "level"),
    [
        (0.0, BITS, 2), (1.0, BITS, 8), (0.5, BITS, 5), (0.14, BITS, 2), (0.15, BITS, 3), (0.85, BITS, 7),
        (0.86, BITS, 8),
        (0.0, list(range(1, 9)), 1),  # round(0.5) is 0, a bit below the lowest
        (1.0, list(range(1, 9)), 8), (0.3, list(range(1, 9)), 3),
        (0.0, [1, 2, 4, 8], 1), (0.24, [1, 2, 4, 8], 1), (0.26, [1, 2, 4, 8], 2), (0.6, [1, 2, 4, 8], 4),
        (1.0, [1, 2, 4, 8], 8), (0.7, [5], 5),
    ],
)  # fmt: skip
def test_an_action_means_a_level(action, values, level):
    assert values[to_index(action, values)] == level


def space(limit, pairs=False, choices=BITS, sizes=(10, 20, 30)):
    options = [[(w, a) for w in choices for a in choices] if pairs else choices for _ in sizes]
    return Space.of(options, lambda i, level: sizes[i] * (math.prod(level) if pairs else level), limit)


@pytest.mark.parametrize(
    ("limit", "repair", "levels"),
    [
        # 60 * 4 = 240; a level of the layers costs 10, 20 and 30.
        (240, "deepest", [4, 4, 4]),
        (239, "deepest", [4, 4, 3]),
        (209, "deepest", [4, 3, 3]),
        (239, "shallowest", [3, 4, 4]),
        (229, "shallowest", [3, 3, 4]),
        (180, "shallowest", [3, 3, 3]),
        (179, "deepest", [3, 3, 2]),  # a second sweep
        (239, "cost", [4, 4, 3]),
        (120, "cost", [2, 2, 2]),
    ],
)
def test_a_scheme_is_repaired_in_sweeps(limit, repair, levels):
    assert space(limit).levels([0.3, 0.35, 0.4], repair) == levels


def test_the_dearest_layer_comes_down_first_by_cost():
    # Costs 80, 60, 60: the first is the dearest, and of equals the first comes first.
    assert space(195).repaired([[6], [1], [0]], "cost") == [7, 3, 2]
    assert space(165).repaired([[6], [1], [0]], "cost") == [6, 2, 2]


def test_of_a_pair_the_activations_come_down_before_the_weights():
    one = space(64, pairs=True, sizes=(1,))
    assert one.repaired([[6, 6]], "deepest") == [(8, 8)]
    for limit, level in ((63, (8, 7)), (55, (7, 7)), (48, (7, 6)), (4, (2, 2))):
        assert space(limit, pairs=True, sizes=(1,)).repaired([[6, 6]], "deepest") == [level]
    two = space(8 * 8 + 8 * 7 - 1, pairs=True, sizes=(1, 1))
    assert two.repaired([[6, 6], [6, 6]], "deepest") == [(8, 8), (7, 7)]
    assert two.repaired([[6, 6], [6, 6]], "shallowest") == [(7, 7), (8, 8)]
    with pytest.raises(ValueError, match="the lowest levels cost 4, and the budget is 3"):
        space(3, pairs=True, sizes=(1,)).repaired([[6, 6]], "deepest")


def test_what_a_cost_does_not_depend_on_is_left_alone_and_plateaus_are_crossed():
    by_weights = Space.of([[(w, a) for w in BITS for a in BITS]], lambda i, level: level[0], 3)
    assert by_weights.repaired([[6, 6]], "deepest") == [(3, 8)]
    # A machine with kernels of 8 and 4 bits: between them nothing is gained, and only both together count.
    kernels = Space.of([[(w, a) for w in BITS for a in BITS]], lambda i, level: 5 if max(level) <= 4 else 10, 7)
    assert kernels.repaired([[6, 6]], "deepest") == [(4, 4)]


def layers():
    shapes = [(8, 4, 3, 3), (8, 1, 3, 3), (16, 8, 1, 1), (10, 16)]
    more = [{"macs": 64}, {"macs": 16, "stride": 2, "is_depthwise": True}, {"macs": 16}, {"is_conv": False}]
    return [
        LayerView(torch.zeros(shape), index=i, **each) for i, (shape, each) in enumerate(zip(shapes, more, strict=True))
    ]


def test_states_by_hand():
    """Depthwise, channels in and out, stride, kernel, weights, input positions, place; then what was decided last."""
    raw = torch.tensor([
        [0, 4, 8, 1, 3, 288, 64, 0], [1, 8, 8, 2, 3, 72, 64, 1], [0, 8, 16, 1, 1, 128, 16, 2],
        [0, 16, 10, 0, 1, 160, 1, 3],
    ], dtype=torch.double)  # fmt: skip
    scaled = (raw - raw.min(0).values) / (raw.max(0).values - raw.min(0).values)
    of_layers = features(layers())
    assert torch.equal(of_layers, scaled)
    pairs = Space.of([[(w, a) for w in BITS for a in BITS]] * 4, lambda i, level: 1, 9)
    states = pairs.states(of_layers, [0.0, 0.5, 1.0])
    assert [state[8:].tolist() for state in states] == [[1, 1], [2 / 8, 0], [5 / 8, 1], [1, 0]]
    assert [state[:8].tolist() for state in states] == [scaled[i].tolist() for i in (0, 0, 1, 1)]
    assert len(pairs.states(of_layers, [0.5] * 8)) == 8
    single = Space.of([[1, 2, 4, 8]] * 4, lambda i, level: 1, 9)
    assert [state[8:].tolist() for state in single.states(of_layers, [0.3])] == [[1], [2 / 8]]
    assert (pairs.state_size, single.state_size) == (10, 9)


def test_noise_is_a_normal_distribution_that_is_cut_off():
    for mean, sigma in ((0.0, 0.5), (0.3, 0.5), (1.0, 0.1), (0.999, 1e-3)):
        uniform = torch.rand(4000, generator=Generator().manual_seed(0), dtype=torch.double).tolist()
        found = torch.tensor([truncated_normal(mean, sigma, each) for each in uniform], dtype=torch.double)
        assert 0 <= found.min() <= found.max() <= 1
        # Against rejected draws of the plain distribution.
        plain = mean + sigma * torch.randn(40000, generator=Generator().manual_seed(1), dtype=torch.double)
        plain = plain[(plain >= 0) & (plain <= 1)]
        for share in (0.1, 0.5, 0.9):
            assert found.quantile(share) == pytest.approx(float(plain.quantile(share)), abs=0.04 * sigma + 1e-9)
    assert truncated_normal(0.4, 0.0, 0.9) == 0.4
    assert [truncated_normal(0.4, 0.5, end) for end in (0.0, 1.0)] == pytest.approx([0.0, 1.0])


SMALL = Agent(hidden=(5, 4), agent_batch=3, replay=4, soft_update=0.1)


def test_an_update_is_the_one_written_down():
    agent = DDPG(SMALL, 2, 3, seed=0)
    old = {name: value.clone() for name, value in agent.critic.named_parameters()}
    old_actor = {name: value.clone() for name, value in agent.actor.named_parameters()}
    batch = torch.rand(3, 7, generator=Generator().manual_seed(0))
    batch[:, 6] = torch.tensor([0.0, 1.0, 0.0])  # the second ends an episode

    def critic(weights, states, actions):
        first = states @ weights["of_states.weight"].t() + weights["of_states.bias"]
        first = F.relu(first + actions @ weights["of_actions.weight"].t() + weights["of_actions.bias"])
        second = F.relu(first @ weights["layers.1.weight"].t() + weights["layers.1.bias"])
        return second @ weights["layers.3.weight"].t() + weights["layers.3.bias"]

    def actor(weights, states):
        for i in (0, 2):
            states = F.relu(states @ weights[f"layers.{i}.weight"].t() + weights[f"layers.{i}.bias"])
        return torch.sigmoid(states @ weights["layers.4.weight"].t() + weights["layers.4.bias"])

    states, actions, rewards, after, last = batch[:, :2], batch[:, 2:3], batch[:, 3:4], batch[:, 4:6], batch[:, 6:]
    agent.mean_reward = 1.0
    agent.update(batch)
    mean = 1.0 + 0.5 * (float(rewards.mean()) - 1.0)
    assert agent.mean_reward == pytest.approx(mean)
    wanted = rewards - mean + (1 - last) * critic(old, after, actor(old_actor, after))
    weights = {name: value.detach().requires_grad_() for name, value in old.items()}
    loss = (critic(weights, states, actions) - wanted.detach()).square().mean()
    new = first_adam_step(weights, torch.autograd.grad(loss, list(weights.values())), 1e-3)
    for name, value in agent.critic.named_parameters():
        torch.testing.assert_close(value.detach(), new[name])
        target = dict(agent.targets["critic"].named_parameters())[name]
        torch.testing.assert_close(target.detach(), 0.9 * old[name] + 0.1 * new[name])
    policy = {name: value.detach().requires_grad_() for name, value in old_actor.items()}
    loss = -critic(new, states, actor(policy, states)).mean()
    stepped = first_adam_step(policy, torch.autograd.grad(loss, list(policy.values())), 1e-4)
    for name, value in agent.actor.named_parameters():
        torch.testing.assert_close(value.detach(), stepped[name])


def first_adam_step(weights, gradients, lr):
    """The first step of Adam is lr * g / (|g| + 1e-8)."""
    return {
        name: (value - lr * gradient / (gradient.abs() + 1e-8)).detach()
        for (name, value), gradient in zip(weights.items(), gradients, strict=True)
    }


def test_every_transition_has_the_final_reward_and_old_ones_are_forgotten():
    agent = DDPG(SMALL, 2, 3, seed=0)
    states = [torch.tensor([float(i), 1.0]) for i in range(3)]
    agent.learn(states, [0.1, 0.2, 0.3], -2.0, update=False)
    expected = [[0, 1, 0.1, -2, 1, 1, 0], [1, 1, 0.2, -2, 2, 1, 0], [2, 1, 0.3, -2, 2, 1, 1]]
    torch.testing.assert_close(agent.memory, torch.tensor(expected))
    for _ in range(5):
        agent.learn(states, [0.1, 0.2, 0.3], -2.0, update=False)
    assert len(agent.memory) == agent.capacity == 12
    assert len(agent.batch()) == 3


def stopping(search, when):
    def stop():
        if len(search.rows) == when:
            raise KeyboardInterrupt

    return stop


def searching(top1=None, pairs=False):
    """Layers whose schemes have an accuracy that is made up, and the search that tries them."""

    def trial(levels):
        tried.append(list(levels))
        return top1(levels) if top1 else 50 + sum(sum(level) if pairs else level for level in levels)

    tried = []
    search = Search(trial, lambda: 80.0)
    return bits_layers(pairs, search=search), search, tried


def allocation(**more):
    return HAQ(episodes=12, warmup=4, hidden=(16, 16), agent_batch=8, replay=16, budget="bitops", **more)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(
    "make", [allocation, lambda: RandomSearch(episodes=12, budget="bitops")], ids=["haq", "random"]
)
def test_a_search_that_stops_after_any_episode_goes_on_with_the_same_bits(make, pairs):
    views, search, tried = searching(pairs=pairs)
    levels = make().allocate(Bits(pairs), views)
    assert [row["episode"] for row in search.rows] == list(range(1, 13))
    assert list(search.rows[0]) == list(COLUMNS)
    assert len(tried) == len({str(each) for each in tried}) == len({str(row["levels"]) for row in search.rows})
    best = max(search.rows, key=lambda row: row["reward"])
    assert [list(level) if pairs else level for level in levels] == best["levels"]
    for row in search.rows:
        assert row["reward"] == 0.1 * (row["top1"] - 80.0)
        assert row["cost"] <= row["limit"]
    assert search.rows[-1]["best"] == best["reward"]

    for when in (0, 1, 4, 5, 11):
        views, interrupted, _ = searching(pairs=pairs)
        interrupted.between.append(stopping(interrupted, when))
        with pytest.raises(KeyboardInterrupt):
            make().allocate(Bits(pairs), views)
        views, again, _ = searching(pairs=pairs)
        again.load_state_dict(interrupted.state_dict())
        assert make().allocate(Bits(pairs), views) == levels
        assert again.rows == search.rows


@pytest.mark.parametrize("pays", [1, -1])
def test_the_agent_finds_what_pays(pays):
    """Levels of the first layer are rewarded, high ones or low ones, and nothing has to be repaired."""
    views, search, _ = searching(top1=lambda levels: 80 + 5 * pays * levels[0])
    agent = {"hidden": (32, 32), "agent_batch": 32, "actor_lr": 1e-3, "soft_update": 0.05, "noise_decay": 0.9}
    HAQ(episodes=50, warmup=20, budget="bitops", **agent).allocate(Bits(False, share=1), views)
    last = [row["levels"][0] for row in search.rows[-5:]]
    assert min(last) >= 7 if pays > 0 else max(last) <= 3


@pytest.mark.parametrize("make", [allocation, lambda: RandomSearch(budget="bitops")], ids=["haq", "random"])
def test_no_number_for_a_reward_ends_the_search(make):
    views, search, _ = searching(top1=lambda levels: math.nan if len(search.rows) == 2 else 50.0)
    with pytest.raises(Unrankable, match="NaN for a reward in episode 3"):
        make().allocate(Bits(False), views)
    assert len(search.rows) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes": 0}, "episodes=0: must be a whole number, 1 or more"),
        ({"repair": "deep"}, "repair='deep': must be one of deepest, shallowest, cost; did you mean deepest"),
        ({"budget": "flops"}, "budget='flops': must be one of params, macs, size, bitops, latency"),
        ({"hidden": [300]}, r"hidden=\[300\]: must be two numbers"),
        ({"trial_momentum": 2}, "trial_momentum=2: must be a number from 0 to 1"),
        ({"noise_decay": -1}, "noise_decay=-1: must be"),
        ({"levels": []}, "must be a list of levels"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HAQ(**settings)


def test_a_budget_below_the_lowest_levels_is_refused():
    pattern = Bits(False, share=0.2)  # the lowest are a quarter of the full ones
    with pytest.raises(ValueError, match=r"the lowest levels cost .* and the budget is"):
        allocation().check_layers(pattern, bits_layers(False))
    with pytest.raises(ValueError, match="a member that does has needs = \\('trial',\\)"):
        HAQ().allocate(NM(2, 4), layers()[:1])
