"""The data of a run before anything is trained: what is kept, how long it is, and rows as the model sees them."""

import json
import math
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace

from align.config import Config, Examples, PromptOverflow, Shape
from align.config.automatic import settle
from align.config.methods import OnPolicyConfig, RewardModelMethodConfig
from align.config.trl import TRLOnPolicyConfig
from align.data.examples import prompts_of
from align.data.preferences import load_preferences
from align.data.prepared import LOST, REPEATED, Preferences
from align.data.similar import alike
from align.libraries import quiet
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import load_chat_tokenizer, model_facts
from align.models.templates import PLAIN_TEMPLATE
from align.run.show_rows import Entry, counted, entries_of, places, samples
from align.run.stages import check_context, data_verdicts, load_data
from align.run.views import Section, Selection, View

_UNLIMITED = 2**40  # tokens: no limit
_ROW = 160  # characters of a dropped row that are shown
_WHY = 100  # characters of what is wrong with a row
_PROMPT = 60  # of a prompt
_FIRST = Selection()


def show_data(config: Config, selection: Selection = _FIRST) -> View:
    """Read tokenizer and data as a run does, and describe them with chosen rows; no model is loaded.

    Raises:
        InputError: As the run itself would, or there is no such row.
    """
    quiet()
    config, chat = settle(config, model_facts(config.model)).config, load_chat_tokenizer(config.model)
    data, _ = load_data(config, chat)
    check_context(config, data)
    entries, kind = entries_of(config, data.shape, data.trained), _kind(config, data)
    chosen = places(selection, entries, config.seed, kind)
    unlimited = replace(
        config.data,
        max_prompt_tokens=_UNLIMITED,
        max_response_tokens=_UNLIMITED,
        long_prompts=PromptOverflow.drop,
    )
    whole = load_preferences(unlimited, chat)
    given = [entry for side in (whole.trained, whole.measured) for entry in entries_of(config, data.shape, side)]
    sections = [_counts(config, data), _lengths(given), _limits(config, data, given, kind)]
    sections += [tokens_section(config, chat), _loss(config, entries)]
    shown = [sample for i in chosen for sample in samples(config, chat, i, entries[i], diff=selection.diff)]
    return View([*sections, *_dropped(data, selection.dropped)] if selection.dropped else sections, shown)


def _kind(config: Config, data: Preferences) -> str:
    """Name the entries in the plural."""
    learns_from = config.method.learns_from
    pairs = data.shape is Shape.preference or (learns_from is Examples.labels and not data.trained.labelled)
    return "pairs" if pairs or learns_from is Examples.pairs else learns_from.value


def _counts(config: Config, data: Preferences) -> Section:
    counts = data.counts
    lines = [("read from", config.data.named()), ("shape", data.rows), ("rows read", str(counts["rows"]))]
    if data.train or data.held_out:
        lines += [
            ("training pairs", f"{len(data.train)} on {len(prompts_of(data.train))} prompts"),
            ("held-out pairs", f"{len(data.held_out)} on {len(prompts_of(data.held_out))} prompts"),
        ]
    if data.shape is not Shape.preference:
        lines += _of_shape(data)
    if aside := counts.get("set_aside", 0):
        lines.append(("set aside for evaluation.reward_model", str(aside)))
    dropped = {name.removesuffix("_dropped"): n for name, n in counts.items() if name.endswith("_dropped")}
    total = sum(dropped.values())
    why = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in dropped.items() if n)
    lines.append(("dropped", f"{total} ({why})" if total else "0"))
    lines += _similar(data)
    others = (name for name in (*LOST, *REPEATED) if not name.endswith(("dropped", "cut", "truncated")))
    lines += [(name.replace("_", " "), str(counts[name])) for name in others if counts[name]]
    notes = [
        *((verdict.level, verdict.text) for verdict in data_verdicts(config, data)),
        *(("note", note) for note in data.notes),
    ]
    return Section("Rows", [*lines, *notes])


def _similar(data: Preferences) -> list[tuple[str, str]]:
    """Count the held-out prompts that share most of their text with a trained one, and quote the first."""
    found = alike(data.measured.prompts, data.trained.prompts)
    if not found:
        return []
    first, like = (textwrap.shorten(prompt.text, _PROMPT) for prompt in found[0])
    counted = f"{len(found)} of {len(data.measured.prompts)}"
    return [
        (
            "held-out prompts alike",
            f"{counted} share most of their text with a trained one, the first: {first!r}, {like!r}",
        )
    ]


def _of_shape(data: Preferences) -> list[tuple[str, str]]:
    """Count prompts, demonstrations and labels on both sides; nothing of those that the rows do not have."""
    sides = (("training", data.trained), ("held-out", data.measured))
    lines = [(f"{name} prompts", str(len(side.prompts))) for name, side in sides]
    lines += [(f"{name} demonstrations", str(len(side.demonstrations))) for name, side in sides if side.demonstrations]
    for name, side in sides:
        if side.labelled:
            good = sum(one.label for one in side.labelled)
            lines.append((f"{name} completions", f"{good} desirable, {len(side.labelled) - good} undesirable"))
    return lines


def _dropped(data: Preferences, most: int) -> list[Section]:
    """List the first rows of each kind that were left out, `most` of them, with the reason."""
    lines = []
    for name, rows in data.dropped.items():
        why = name.removesuffix("_dropped").replace("_", " ")
        for row in rows[:most]:
            reason = f"{why}: {textwrap.shorten(row.why, _WHY)}" if row.why else why
            lines.append((row.where, reason, textwrap.shorten(json.dumps(row.row, default=str), _ROW)))
        if len(rows) > most:
            lines.append((f"and {len(rows) - most} more", why, f"--dropped {len(rows)} lists them all"))
    head = ("row", "why", "what stands in it")
    return [Section("Dropped", [head, *lines] if lines else [("none", "")], headed=bool(lines))]


def _lengths(entries: Sequence[Entry]) -> Section:
    prompts = {entry.prompt.id: entry.prompt.input_ids for entry in entries}
    lengths = {"prompts": [len(ids) for ids in prompts.values()]}
    for entry in entries:
        for name, given in entry.responses.items():
            lengths.setdefault(name, []).append(len(given.ids))
    head = ("tokens, before any limit", "min", "median", "95%", "max")
    return Section("Lengths", [head, *((name, *quantiles(values)) for name, values in lengths.items())], headed=True)


def quantiles(values: Iterable[int]) -> tuple[str, str, str, str]:
    """Format minimum, median, 95% quantile (the smallest value that 95% do not exceed) and maximum."""
    ordered = sorted(values)
    high = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return str(ordered[0]), f"{statistics.median(ordered):g}", str(high), str(ordered[-1])


def _limits(config: Config, data: Preferences, entries: Sequence[Entry], kind: str) -> Section:
    """Count the entries, of those without any limit, that each limit reaches."""
    own, longest = config.data, config.rollout.new_tokens
    long = sum(len(entry.prompt.input_ids) > own.prompt_tokens for entry in entries)
    cut = sum(any(len(given.ids) > own.response_tokens for given in entry.responses.values()) for entry in entries)
    first = (next(iter(entry.responses.values()), None) for entry in entries)
    beyond = sum(given is not None and len(given.ids) > longest for given in first)
    shown = "chosen one" if kind == "pairs" else "given one"
    dropped = {PromptOverflow.drop: "dropped", PromptOverflow.truncate: "cut: their prompts lose the first tokens"}
    kept = f"cut: {data.counts['responses_cut']} responses of the {kind} kept lose their last tokens and their end"
    reached = [
        (f"data.max_prompt_tokens={own.max_prompt_tokens}", long, dropped.get(own.long_prompts, "refused")),
        (f"data.max_response_tokens={own.max_response_tokens}", cut, kept),
        (f"rollout.max_new_tokens={longest}", beyond, f"a sampled response cannot be as long as the {shown}"),
    ]
    lines = [(key, f"{n} of {len(entries)} {kind}", what if n else "") for key, n, what in reached]
    return Section("Limits", lines)


def tokens_section(config: Config, chat: ChatTokenizer) -> Section:
    """Name the template's origin and the tokens that end, begin and pad."""
    tokenizer = chat.tokenizer
    template = str(tokenizer.chat_template)
    origin = "the tokenizer's own"
    if config.model.chat_template is not None:
        origin = config.model.chat_template
    elif PLAIN_TEMPLATE in template:
        origin = "plain (the tokenizer has none): each turn under its role's name"
    lines = [
        ("tokenizer", f"{type(tokenizer).__name__}, {len(tokenizer)} tokens"),
        ("chat template", origin),
        ("end of a response", ", ".join(_named(chat, i) for i in chat.end_ids)),
        ("end of given responses", f"{_named(chat, chat.end_id)}{'' if chat.closes else ', appended'}"),
        ("padding", _named(chat, chat.pad_id)),
    ]
    if tokenizer.bos_token_id is not None:
        lines.append(("beginning of text", _named(chat, tokenizer.bos_token_id)))
    return Section("Tokens", lines)


def _named(chat: ChatTokenizer, token: int) -> str:
    return f"{token} {chat.tokenizer.convert_ids_to_tokens(token)!r}"


def _loss(config: Config, entries: Sequence[Entry]) -> Section:
    """Say in words which tokens the method learns from."""
    method, learned = config.method, counted(config, entries)
    if isinstance(method, OnPolicyConfig | TRLOnPolicyConfig):
        text = "responses that the policy samples to these prompts; the given ones are not trained on"
    elif isinstance(method, RewardModelMethodConfig):
        text = "the score at the last token of each response"
    elif learned:
        names = " and the ".join(name for name in learned if name in ("chosen", "rejected"))
        text = f"every token of the {names + ' response' if names else 'completion'}, its end included"
    else:
        text = "nothing: the method does not train"
    return Section("In the loss", [(method.name, text)])
