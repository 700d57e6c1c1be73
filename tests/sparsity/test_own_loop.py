"""What people who bring a loop of their own trip over."""

import dataclasses
import warnings

import pytest
import torch
from torch import nn

from midstate.sparsity import (
    L1,
    NM,
    Budget,
    Direct,
    Hard,
    Method,
    Pruner,
    Schedule,
    Scope,
    Uniform,
    Update,
    block_nm_mask,
    multi_axis_mask,
    nm_mask,
)

METHOD = Method(Scope(False, False), NM(2, 4), L1(), Uniform(), Direct(), Update(), Hard())


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))


def attached(model):
    return Pruner(model, METHOD, Schedule("one_shot", 0.0, 1.0), 2, 4)


def test_a_model_with_masks_on_can_be_traced():
    model, images = network(), torch.randn(4, 8)
    attached(model).tick(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.trace is deprecated, and used all the same
        assert torch.jit.trace(model, images)(images).equal(model(images))


def test_a_second_pruner_is_told_of_the_first():
    model = network()
    attached(model)
    with pytest.raises(ValueError, match="0 has masks already, of another Pruner; finalise that first"):
        attached(model)


def test_a_misspelt_classifier_is_refused():
    scope = Scope()
    assert [layer.name for layer in Scope(False).resolve(network(), "2", None)] == ["0"]
    with pytest.raises(ValueError, match="classifier='fc': no layer has that name"):
        scope.resolve(network(), "fc", None)


@pytest.mark.parametrize(("classifier", "skips", "warned"), [(None, True, 1), ("2", True, 0), (None, False, 0)])
def test_it_is_said_that_the_last_layer_is_pruned_where_no_classifier_is_known(caplog, classifier, skips, warned):
    Scope(False, skip_classifier=skips).resolve(network(), classifier, None)
    assert caplog.text.count("2, the network's last layer, is pruned") == warned


def test_a_loop_that_never_made_a_mask_gets_no_dense_network():
    pruner = attached(network())
    with pytest.raises(ValueError, match=r"call pruner.tick\(step\) .* and pruner.refresh\(total_steps\)"):
        pruner.finalise()
    pruner.refresh(4)
    pruner.finalise()
    assert pruner.verify()


def test_masks_that_were_put_in_place_by_hand_can_be_folded():
    pruner = attached(model := network())
    pruner.set_masks([torch.zeros_like(mask) for mask in pruner.masks])
    pruner.finalise()
    assert not model[0].weight.any()


def test_a_budget_by_weight_error_needs_no_sample():
    method = dataclasses.replace(METHOD, allocation=Budget(score="weight_error"))
    pruner = Pruner(network(), method, Schedule("one_shot", 0.0, 1.0), 2, 4)
    pruner.tick(0)
    assert pruner.levels is not None


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_ranked_by_its_exact_values(dtype):
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert nm_mask(weight, 2, 4).equal(nm_mask(weight.float(), 2, 4))
    assert block_nm_mask(weight, 2, 4, 0.5).equal(block_nm_mask(weight.float(), 2, 4, 0.5))
    assert multi_axis_mask(weight, 2, 4).equal(multi_axis_mask(weight.float(), 2, 4))
