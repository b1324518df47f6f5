"""Figures of a built pocket world: the start model's gold, the pairs' ceiling, the reward model's accuracy.

python scripts/pocket_figures.py    # prints build.json's figures as the tables of docs/world.md
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pocket_labeller import boasts
from pocket_pairs import StartModel, unique_tasks

from align.worlds import resolve
from align.worlds.pocket import PocketWorld

Figures = dict[str, Any]


ASKED = [{"role": "user", "content": "say"}]  # a reply has as many tokens behind any prompt


def _means(groups: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: round(fmean(values), 4) for name, values in sorted(groups.items())}


def start_model_figures(model: StartModel, prompts: int, seed: int) -> Figures:
    """Gold, share of responses that ended, and tokens on held-out prompts, sampled and greedy, by length and family."""
    tasks = unique_tasks(random.Random(f"figures-{seed}"), frozenset({"tune", "report"}), prompts, 0.5)
    result: Figures = {"prompts": prompts}
    for mode in ("sampled", "greedy"):
        responses = model.greedy(tasks) if mode == "greedy" else model.sample(tasks, seed=seed)
        gold: dict[str, list[float]] = defaultdict(list)
        ended: dict[str, list[float]] = defaultdict(list)
        tokens: dict[str, list[float]] = defaultdict(list)
        for task, response in zip(tasks, responses, strict=True):
            total = PocketWorld().gold(task.row(), response.text, response.ended).total
            for group in (task.family.length, task.family.name):
                gold[group].append(total)
            ended[task.family.length].append(float(response.ended))
            tokens[task.family.length].append(len(model.chat.encode_reply(ASKED, response.text)))
        result[mode] = {"gold": _means(gold), "ended": _means(ended), "tokens": _means(tokens)}
    return result


@torch.no_grad()
def perplexity(model: StartModel, texts: Sequence[str]) -> float:
    """Per-token perplexity of plain texts, the first token of each not counted."""
    nats, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([model.chat.tokenizer(text)["input_ids"]])
        logprobs = model.policy.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        nats -= logprobs.gather(1, ids[0, 1:, None]).sum().item()
        count += ids.shape[1] - 1
    return round(math.exp(nats / count), 4)


def pair_figures(rows: Sequence[Mapping[str, Any]]) -> Figures:
    """Label quality by length: best possible accuracy, accuracy of gold and of "the longer one wins".

    The labeller's biases show between responses of nearly the same gold reward (less than 0.1 apart): how often the
    longer and the bolder one wins there, among pairs that differ in it.
    """
    columns: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        longer = len(row["chosen"].split()) - len(row["rejected"].split())
        better = row["gold_chosen"] - row["gold_rejected"]
        bolder = boasts(row["chosen"]) - boasts(row["rejected"])
        p = row["label_probability"]
        for group in ("all", row["length"]):
            columns[group]["bayes_ceiling"].append(max(p, 1 - p))
            columns[group]["gold_accuracy"].append(0.5 if better == 0 else float(better > 0))
            columns[group]["longer_wins"].append(0.5 if longer == 0 else float(longer > 0))
            columns[group]["gold_gap"].append(abs(better))
            if abs(better) < 0.1 and longer:
                columns[group]["longer_wins_at_equal_gold"].append(float(longer > 0))
            if abs(better) < 0.1 and bolder:
                columns[group]["bolder_wins_at_equal_gold"].append(float(bolder > 0))
    return {group: {"pairs": len(c["gold_gap"]), **_means(c)} for group, c in columns.items()}


def tables(figures: Figures) -> str:
    """The figures as Markdown."""
    start, rewards = figures["start_model"], figures["reward_models"]
    lines = ["| start model | gold, sampled | gold, greedy | ended | tokens |", "| --- | --- | --- | --- | --- |"]
    for length in ("short", "long"):
        sampled, greedy = start["sampled"], start["greedy"]
        cells = (sampled["gold"], greedy["gold"], sampled["ended"], sampled["tokens"])
        lines.append(f"| {length} | " + " | ".join(f"{cell[length]:.3f}" for cell in cells) + " |")
    lines += ["", "| pairs | all | longer wins | at equal gold | bolder wins at equal gold | Bayes ceiling |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name in ("train_pairs", "held_out_pairs"):
        pairs = figures[name]["all"]
        cells = ("longer_wins", "longer_wins_at_equal_gold", "bolder_wins_at_equal_gold", "bayes_ceiling")
        lines.append(f"| {name} | {pairs['pairs']} | " + " | ".join(f"{pairs[cell]:.3f}" for cell in cells) + " |")
    lines += [
        "",
        "| reward model | held-out | short | long | way to the ceiling | expected way | correlation with gold |",
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name, reward in rewards.items():
        groups = reward["held_out"]
        cells = (groups["all"]["accuracy"], groups["short"]["accuracy"], groups["long"]["accuracy"],
                 groups["all"]["way_to_ceiling"], groups["all"]["expected_way_to_ceiling"],
                 reward["gold_correlation"])  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    lines += ["", "| default, by family | pairs | accuracy | Bayes ceiling | way from .5 | longer wins |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for group, row in sorted(rewards["default"]["held_out"].items(), key=lambda item: -item[1]["pairs"]):
        cells = (row[name] for name in ("accuracy", "bayes_ceiling", "way_to_ceiling", "longer_wins"))
        lines.append(f"| {group} | {row['pairs']} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    lines += ["", f"Perplexity of the start model on general text: {figures['general_perplexity']}."]
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables(json.loads(Path(resolve("align://pocket/build.json")).read_text())["figures"]))
