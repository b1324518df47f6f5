"""What a run learns from is checked against the shape of its rows; of a named shape, before anything is loaded."""

from __future__ import annotations

import pytest

from align.config import Examples, ImplicitCredit, RewardConfig, RewardModelSource, RulesSource, Shape, SparseCredit
from align.config.groups import METHODS
from align.config.needs import check_named_shape, check_shape, check_shapes
from align.config.shapes import PROVIDES
from align.errors import InputError
from tests import tiny

RULES = RewardConfig(RulesSource(), SparseCredit())


def config(method: str = "ppo", reward: RewardConfig = RULES, **root):
    made = tiny.config(reward=reward, **root)
    made.method = METHODS[method]()
    return made


@pytest.mark.parametrize(
    ("methods", "examples"),
    [
        ("ppo grpo best_of_n trl_grpo trl_rloo", Examples.prompts),
        ("dpo trl_dpo reward_model", Examples.pairs),
        ("sft", Examples.demonstrations),
        ("trl_kto", Examples.labels),
    ],
)
def test_every_method_names_what_it_learns_from(methods, examples):
    for name in methods.split():
        assert METHODS[name].learns_from is examples
        for shape, provided in PROVIDES.items():
            if examples in provided:
                check_shape(config(name), shape, "rows")
            else:
                with pytest.raises(InputError, match=rf"^method: given '{name}'.*rows gives no {examples.value}"):
                    check_shape(config(name), shape, "rows")


def test_all_methods_are_in_the_test_above():
    assert len(METHODS) == 10


@pytest.mark.parametrize(
    ("reward", "told"),
    [
        (RewardConfig(RewardModelSource(), SparseCredit()), r"^reward/source: given 'reward_model'.*reward=rules"),
        (RewardConfig(RulesSource(), ImplicitCredit()), r"^reward/credit: given 'implicit'.*reward\.credit\.path"),
    ],
)
def test_what_is_trained_first_needs_pairs(reward, told):
    check_shape(config(reward=reward), Shape.ranked, "rows")
    with pytest.raises(InputError, match=told):
        check_shape(config(reward=reward), Shape.prompt_only, "rows")


def test_models_by_path_need_none():
    path = str(tiny.reward_folder())
    for reward in (
        RewardConfig(RewardModelSource(path=path), SparseCredit()),
        RewardConfig(RulesSource(), ImplicitCredit(path=path)),
    ):
        check_shape(config(reward=reward), Shape.prompt_only, "rows")


def test_a_judge_that_is_trained_needs_pairs():
    judged = config()
    judged.evaluation.reward_model = "train"
    with pytest.raises(InputError, match=r"^evaluation\.reward_model: given 'train'; allowed: null, or"):
        check_shape(judged, Shape.demonstration, "rows")


def test_a_method_learns_from_every_source_and_what_is_trained_first_from_some():
    """A reward model has the pairs of one source; the prompts of the other are sampled from."""
    learned = RewardConfig(RewardModelSource(), SparseCredit())
    prompts, pairs = (Shape.prompt_only, "prompts.jsonl"), (Shape.preference, "pairs.jsonl")
    check_shapes(config("grpo", learned), {"a": prompts, "b": pairs})
    with pytest.raises(InputError, match=r"^reward/source: given 'reward_model'.*: prompts\.jsonl gives no"):
        check_shapes(config("grpo", learned), {"a": prompts, "b": (Shape.demonstration, "talks.jsonl")})
    with pytest.raises(InputError, match=r"^data\.mixture\.b\.path: given 'prompts\.jsonl'.* preference pairs"):
        check_shapes(config("dpo"), {"a": pairs, "b": prompts})
    check_shapes(config("dpo"), {"a": prompts, "b": pairs}, trains=False)


def test_labels_are_read_of_labelled_sources_alone():
    labels, pairs = (Shape.unpaired_preference, "labels.jsonl"), (Shape.preference, "pairs.jsonl")
    with pytest.raises(
        InputError, match=r"^data\.mixture\.b\.path: given 'pairs\.jsonl'; allowed: labelled completions"
    ):
        check_shapes(config("trl_kto"), {"a": labels, "b": pairs})
    for method, first, second in (("dpo", labels, pairs), ("trl_kto", labels, labels), ("trl_kto", pairs, pairs)):
        check_shapes(config(method), {"a": first, "b": second})


def test_a_named_shape_is_checked_with_the_configuration():
    made = config("dpo")
    check_named_shape(made)
    made.data.shape = Shape.prompt_only
    with pytest.raises(
        InputError, match=r"^method: given 'dpo'; .*: data\.shape=prompt_only gives no preference pairs"
    ):
        check_named_shape(made)
