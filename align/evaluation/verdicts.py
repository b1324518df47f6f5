"""Judge a run by its figures: what went wrong, by how much, and the key to turn."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from align.config import Config, VerdictsConfig
from align.errors import ERROR, NOTE, WARNING, Verdict
from align.evaluation.too_small import HeldOut, too_small
from align.numbers import number


def judge_run(
    config: Config, evaluation: Mapping[str, Any], held_out: HeldOut, *, learned: bool | None, all_cut: bool = False
) -> list[Verdict]:
    """Judge a run by what its evaluation.json holds, under the bounds of `config.verdicts`.

    Args:
        held_out: Prompts and pairs of the data, of which the evaluation may take more.
        learned: Whether an update of the policy had a gradient; None where the method trains nothing.
        all_cut: Whether the run sampled responses and cut all of them, which are then paid the same.
    """
    bounds, before, after = config.verdicts, evaluation["before"], evaluation["after"]
    found: list[Verdict] = []
    if learned is False:
        what = "nothing was learned: no update of the policy had a gradient"
        key = "reward" if config.method.needs_reward else "data"
        if all_cut:
            what, key = f"{what}, as every sampled response was cut at the limit", "rollout.max_new_tokens"
        found.append(Verdict(ERROR, what, 0.0, key))
    found += _collapse(bounds, before, after)
    found += _cut(bounds, after)
    found += _forgetting(bounds, before, after)
    found += _hacking(evaluation["delta"])
    found += too_small(config, evaluation, held_out)
    return found


def _collapse(bounds: VerdictsConfig, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Verdict]:
    nats = _at(after, "kl_per_response")
    if nats is not None and nats > bounds.kl and "per_response_upper_bound" not in after.get("kl", {}):
        what = f"the policy is {number(nats)} nats per response from its start, more than {bounds.kl:g}"
        yield Verdict(WARNING, what, nats, "method.learning_rate")
    repeats, repeated = _at(after, "repetition", "rate"), _at(before, "repetition", "rate")
    if repeats is not None and repeated is not None and repeats > max(bounds.repetition, repeated):
        what = f"responses repeat themselves: {number(repeats)} of their n-grams, {number(repeated)} before"
        yield Verdict(WARNING, what, repeats, "method.learning_rate")
    entropy, spread = _at(after, "diversity", "entropy"), _at(before, "diversity", "entropy")
    if entropy is not None and spread is not None and entropy < min(bounds.entropy, spread):
        what = (
            f"the policy has all but one answer: {number(entropy)} nats of entropy per token, {number(spread)} before"
        )
        yield Verdict(WARNING, what, entropy, "method.learning_rate")
    ratio = _ratio(before, after, "perplexity")
    if ratio is not None and ratio > bounds.perplexity:
        what = f"held-out responses have {number(ratio)} times the perplexity of before"
        yield Verdict(WARNING, what, ratio, "method.learning_rate")


def _cut(bounds: VerdictsConfig, after: Mapping[str, Any]) -> Iterator[Verdict]:
    ended = _at(after, "eos_rate")
    if ended is not None and 1 - ended > bounds.cut:
        what = f"{number(1 - ended)} of the responses are cut at the limit: their figures are of torsos"
        yield Verdict(WARNING, what, 1 - ended, "rollout.max_new_tokens")


def _forgetting(bounds: VerdictsConfig, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Verdict]:
    ratio = _ratio(before, after, "forgetting_perplexity")
    if ratio is not None and ratio > bounds.forgetting:
        what = f"general text has {number(ratio)} times the perplexity of before"
        yield Verdict(WARNING, what, ratio, "method.learning_rate")


def _hacking(change: Mapping[str, Any]) -> Iterator[Verdict]:
    """Say where the proxy rose while the score that stands for quality fell, both by their intervals."""
    rose, least = (_at(change, "reward", f"proxy_mean{end}") for end in ("", "_low"))
    for quality in ("gold", "evaluation"):
        fell, most = (_at(change, "reward", f"{quality}_mean{end}") for end in ("", "_high"))
        if rose is None or least is None or fell is None or most is None:
            continue
        if least > 0 and most < 0:
            what = f"the reward rose by {number(rose)} while the {quality} reward fell by {number(-fell)}"
            yield Verdict(WARNING, what, fell, "method.kl.coef")
            return


def _ratio(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> float | None:
    old, new = _at(before, name), _at(after, name)
    return new / old if old and new is not None else None


def _at(summary: Mapping[str, Any], *path: str) -> float | None:
    value: Any = summary
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, (int, float)) and not math.isnan(value) else None


def status_of(verdicts: Sequence[Verdict]) -> str:
    """Return how a run ended by its verdicts, notes apart: `finished`, or `finished with N warnings`."""
    n = sum(verdict.level != NOTE for verdict in verdicts)
    return "finished" if not n else f"finished with {n} warning{'s' if n > 1 else ''}"
