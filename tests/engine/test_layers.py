"""Reports of the layer that a pass has come to."""

import itertools

import pytest
import torch

from align.activity import SLOW, Activity
from align.config import AdapterConfig
from align.engine.engine import Engine
from align.engine.layers import LayerReports, layers_of
from align.models.adapters import POLICY
from tests import tiny
from tests.clock import Clock


def listening():
    heard = []
    return Activity(heard.append, itertools.count(step=2).__next__), heard


def loss_of(policy):
    rollout = tiny.rollout_of(tiny.prompts(2), [(5, 6, 7), (8, 9)])
    return policy(rollout, 1.0).logprobs.sum()


def test_layers_are_counted_forward_and_backward_and_no_gradient_changes():
    watched = Engine().policy(tiny.causal(), torch.float32)
    plain = Engine().policy(tiny.causal(), torch.float32)
    activity, heard = listening()
    LayerReports(activity).watch([watched, watched])  # once, however often it is named
    activity.advance("rows", 0, 2)
    loss_of(watched).backward()
    loss_of(plain).backward()
    forward = ["layer 1 of 2", "layer 2 of 2"]
    backward = ["layer 2 of 2, backward", "layer 1 of 2, backward"]
    assert [work.detail for work in heard] == ["", *forward, *backward]
    assert {(work.what, work.done, work.total) for work in heard} == {("rows", 0, 2)}
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_a_copy_for_sampling_is_made_of_a_watched_base():
    engine = Engine()
    shared = engine.shared_base(tiny.causal(), AdapterConfig(name="lora", r=4, alpha=8))
    activity, heard = listening()
    LayerReports(activity).watch([shared.model])
    activity.advance("responses sampled", 0, 1)
    copy = shared.merged(POLICY)
    copy(input_ids=torch.tensor([[5, 6]]))
    assert [work.detail for work in heard[1:]] == ["layer 1 of 2", "layer 2 of 2"]


def test_a_short_pass_reports_nothing_from_its_inside():
    heard, clock = [], Clock()
    activity = Activity(heard.append, clock)
    activity.advance("rows", 0, 2)
    clock.now = SLOW
    activity.inside("layer 1 of 2")
    assert len(heard) == 1
    clock.now = SLOW + 0.1
    activity.inside("layer 2 of 2")
    assert heard[-1].detail == "layer 2 of 2"


def test_a_count_is_not_held_back_by_what_was_reported_inside_of_it():
    heard, clock = [], Clock()
    activity = Activity(heard.append, clock)
    activity.advance("rows", 0, 2)
    clock.now = 2 * SLOW
    activity.inside("layer 2 of 2")
    activity.advance("rows", 1, 2)
    assert [str(work) for work in heard] == ["rows 0/2", "rows 0/2 (layer 2 of 2)", "rows 1/2"]


def test_nothing_is_hooked_where_nobody_listens():
    model = tiny.causal()
    LayerReports(Activity()).watch([model])
    assert not any(layer._forward_hooks for layer in model.modules())


@pytest.mark.parametrize("shape", ["llama", "gpt2", "opt", "mistral"])
def test_layers_of_every_kind_are_found(shape):
    assert len(list(layers_of(tiny.causal(shape)))) == 2
