"""The coefficient of the KL penalty, and the two limits that end updates: of a rollout, and of the run."""

from __future__ import annotations

import re

import pytest

from align.algorithms.kl_control import adapted_coef
from align.config.methods import KLController
from tests import tiny


def test_adapted_coef_by_hand():
    """'beta <- beta * (1 + clip(KL/target - 1, ±0.2) * n/horizon)'."""
    step = {"target": 6.0, "responses": 64, "horizon": 1000}
    assert adapted_coef(0.1, 6.0, **step) == pytest.approx(0.1)
    assert adapted_coef(0.1, 6.6, **step) == pytest.approx(0.1 * (1 + 0.1 * 0.064))
    assert adapted_coef(0.1, 60.0, **step) == pytest.approx(0.1 * (1 + 0.2 * 0.064))
    assert adapted_coef(0.1, 5.4, **step) == pytest.approx(0.1 * (1 - 0.1 * 0.064))
    assert adapted_coef(0.1, -3.0, **step) == pytest.approx(0.1 * (1 - 0.2 * 0.064))
    assert adapted_coef(0.1, float("nan"), **step) == 0.1  # of a rollout that nothing was learned from


def test_the_adaptive_coefficient_follows_each_rollouts_kl(tmp_path):
    """On nats per response; a rollout's coefficient is the one its rewards were made with."""
    cfg = tiny.config(method={"learning_rate": 5e-3}, max_steps=8)
    cfg.method.kl.controller, cfg.method.kl.target, cfg.method.kl.horizon = KLController.adaptive, 0.3, 40
    made, seen = tiny.loop(tmp_path, cfg)
    made.train()
    rollouts = seen.records[::2]
    coef, coefs = 0.05, []
    for record in rollouts:
        assert record["kl/coef"] == pytest.approx(coef)
        coefs.append(coef)
        coef *= 1 + min(max(record["kl/per_response_k1"] / 0.3 - 1, -0.2), 0.2) * 16 / 40
    assert len(set(coefs)) == 4 and coefs[1] < coefs[0] and coefs[-1] > coefs[1]


def test_a_fixed_coefficient_stays(tmp_path):
    made, seen = tiny.loop(tmp_path, tiny.config(max_steps=4))
    made.train()
    assert set(seen.column("kl/coef")) == {0.05}


def test_target_kl_ends_a_rollouts_updates_early(tmp_path):
    """'`target_kl` for early stopping of inner epochs is another thing: approx-KL old->new per update'."""
    limit = 0.02
    cfg = tiny.config(method={"learning_rate": 2e-2, "epochs": 6, "target_kl": limit}, max_steps=20)
    made, seen = tiny.loop(tmp_path, cfg)
    made.train()
    by_rollout: dict[int, list[dict]] = {}
    for record in seen.records:
        by_rollout.setdefault(record["rollout"], []).append(record)
    assert list(by_rollout) == list(range(len(by_rollout))) and len(by_rollout) > 2
    for records in list(by_rollout.values())[:-1]:
        assert [r["update"] for r in records] == list(range(1, len(records) + 1))
        *before, last = [r["policy/approx_kl"] for r in records]
        assert all(kl <= limit for kl in before)
        assert last > limit or len(records) == 12
        assert len(records) < 12
    assert made.stopped is None and made.progress.step == 20


def test_the_kl_budget_stops_the_run(tmp_path):
    cfg = tiny.config(method={"learning_rate": 2e-2}, max_steps=50)
    cfg.method.kl.budget = 0.4
    made, seen = tiny.loop(tmp_path, cfg)
    made.train()
    assert "method.kl.budget" in made.stopped
    assert 0 < made.progress.step < 50 and made.progress.step == seen.records[-1]["step"]
    assert max(seen.column("kl/per_response_k1")) <= 0.4 < float(re.search(r"KL of (\S+) nats", made.stopped)[1])
    assert len(seen.rollouts) == len({r["rollout"] for r in seen.records}) + 1  # the one over it was used for nothing
    assert seen.checkpoints[-1][0] == made.progress.step
