"""Evaluation data: chosen once per run, the same for every evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from align.config import EvaluationConfig
from align.errors import InputError
from align.evaluation.forgetting import Passage
from align.evaluation.perturbations import perturbations_of
from align.evaluation.prompts_file import KEY, load_prompts
from align.models.chat_tokenizer import ChatTokenizer
from align.streams import permutation
from align.types import Completion, Pair, Prompt
from align.worlds import ASSETS, SCHEME

T = TypeVar("T")


@dataclass(frozen=True)
class Probe:
    """A prompt and its perturbations by kind, which keep its id (so its noise) and data row (so its gold)."""

    prompt: Prompt
    perturbations: Mapping[str, Prompt]


@dataclass(frozen=True)
class EvaluationSet:
    """Prompts, pairs or demonstrations, texts and probes of an evaluation."""

    prompts: tuple[Prompt, ...]  # one response is sampled to each
    pairs: tuple[Pair, ...]  # for preference accuracy and perplexity
    texts: tuple[Passage, ...]  # for forgetting
    probes: tuple[Probe, ...] = ()  # for reward hacking
    demonstrations: tuple[Completion, ...] = ()  # for perplexity, where there are no pairs

    @classmethod
    def select(
        cls,
        prompts: Sequence[Prompt],
        pairs: Sequence[Pair],
        texts: Sequence[Passage],
        config: EvaluationConfig,
        probes: Sequence[Probe] = (),
        demonstrations: Sequence[Completion] = (),
    ) -> EvaluationSet:
        """Select `evaluation.num_*` of each by the evaluation's seed, in the data's order; all of fewer.

        Of demonstrations as many as of pairs. Of texts as many of every kind as there are, one more or less.
        """
        return cls(
            _choose(prompts, config.num_prompts, config.seed, "prompts"),
            _choose(pairs, config.num_pairs, config.seed, "pairs"),
            _choose(texts, config.num_texts, config.seed, "texts", [text.kind for text in texts]),
            tuple(probes),
            _choose(demonstrations, config.num_pairs, config.seed, "demonstrations"),
        )


def _choose(
    items: Sequence[T], n: int, seed: int, name: str, kinds: Sequence[str | None] | None = None
) -> tuple[T, ...]:
    """Choose n items in a random order, the first of every kind before the second of any; return them in their own."""
    order = permutation(len(items), seed, "evaluation", name).tolist()
    if kinds is not None:
        seen: Counter[str | None] = Counter()
        turns = []
        for i in order:
            turns.append(seen[kinds[i]])
            seen[kinds[i]] += 1
        order = [i for _, i in sorted(zip(turns, order, strict=True), key=lambda turn: turn[0])]  # a stable sort
    return tuple(items[i] for i in sorted(order[:n]))


def probes_of(
    config: EvaluationConfig, chat: ChatTokenizer, prompts: Sequence[Prompt], *, world: str | None, longest: int | None
) -> list[Probe]:
    """Select `evaluation.num_probes` prompts, with their perturbations, from the prompts file or from `prompts`.

    The file is `evaluation.prompts_file`, else the one that the world ships. A prompt of the file whose text is that of
    one of `prompts` is that prompt, with its data row; others have no gold reward. Without a file the perturbations of
    `prompts` (held-out ones) are made; a prompt with a perturbation longer than `longest` tokens is left out.

    Raises:
        InputError: A file that cannot be read, or holds a prompt that is too long or that the template cuts.
    """
    if config.num_probes == 0:
        return []
    path = config.prompts_file or _shipped(world)
    if path is None:
        chosen = _choose(prompts, config.num_probes, config.seed, "probes")
        made = [_probe(prompt, perturbations_of(prompt.text, config.seed), chat) for prompt in chosen]
        return [probe for probe in made if _fits(probe, longest)]
    known = {prompt.text: prompt for prompt in reversed(prompts) if len(prompt.messages) == 1}
    found = []
    for number, entry in enumerate(load_prompts(path, config.seed), start=1):
        prompt = known.get(entry.text) or _prompt(-number, entry.text, chat)
        probe = _probe(prompt, entry.perturbations, chat)
        if any(chat.omitted(one.messages) for one in (prompt, *probe.perturbations.values())):
            raise InputError(KEY, f"{path}: {entry.text[:60]}", "prompts that the chat template writes whole")
        if not _fits(probe, longest):
            allowed = f"prompts and perturbations of at most {longest} tokens"
            raise InputError(KEY, f"{path}: {entry.text[:60]}", allowed)
        found.append(probe)
    return list(_choose(found, config.num_probes, config.seed, "probes"))


def _shipped(world: str | None) -> str | None:
    there = world is not None and (ASSETS / world / "prompts.txt").is_file()
    return f"{SCHEME}{world}/prompts.txt" if there else None


def _fits(probe: Probe, longest: int | None) -> bool:
    every = (probe.prompt, *probe.perturbations.values())
    return longest is None or all(len(prompt.input_ids) <= longest for prompt in every)


def _prompt(number: int, text: str, chat: ChatTokenizer) -> Prompt:
    messages = ({"role": "user", "content": text},)
    return Prompt(number, messages, text, tuple(chat.encode_prompt(messages)), {})


def _probe(prompt: Prompt, texts: Mapping[str, str], chat: ChatTokenizer) -> Probe:
    return Probe(prompt, {kind: _perturbed(prompt, text, chat) for kind, text in texts.items()})


def _perturbed(prompt: Prompt, text: str, chat: ChatTokenizer) -> Prompt:
    """Replace the prompt's last user message with `text`."""
    last = max((i for i, m in enumerate(prompt.messages) if m["role"] == "user"), default=len(prompt.messages) - 1)
    messages = tuple(m | {"content": text} if i == last else m for i, m in enumerate(map(dict, prompt.messages)))
    return replace(prompt.loaded(), messages=messages, text=text, input_ids=tuple(chat.encode_prompt(messages)))
