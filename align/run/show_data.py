"""The data of a run before anything is trained: what is kept, how long it is, and rows as the model sees them."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from align.algorithms.offline import BOTH
from align.algorithms.registry import algorithm_class
from align.config import Config, PromptOverflow
from align.config.automatic import settle
from align.config.methods import OfflineConfig, OnPolicyConfig, RewardModelMethodConfig
from align.config.trl import TRLOnPolicyConfig, TRLPairsConfig
from align.data.preferences import Preferences, load_preferences, prompts_of
from align.errors import InputError
from align.libraries import quiet
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import load_chat_tokenizer, model_facts
from align.models.templates import PLAIN_TEMPLATE
from align.run.stages import check_context, load_data
from align.run.views import Sample, Section, Segment, View
from align.types import Pair

_UNLIMITED = 2**40  # tokens: no limit
_SIDES = {"chosen_ids": "chosen", "rejected_ids": "rejected"}


def show_data(config: Config, *, rows: int = 2, row: int | None = None) -> View:
    """Read tokenizer and data as a run does, and describe them; no model is loaded.

    Args:
        rows: How many training pairs are shown, from the first on.
        row: The one that is shown instead, counted from 1.

    Raises:
        InputError: As the run itself would, or there is no such row.
    """
    quiet()
    config, chat = settle(config, model_facts(config.model)).config, load_chat_tokenizer(config.model)
    data, _ = load_data(config, chat)
    check_context(config, data)
    if row is not None and not 1 <= row <= len(data.train):
        raise InputError("--row", row, f"1 to {len(data.train)}, the number of training pairs")
    places = range(min(rows, len(data.train))) if row is None else [row - 1]
    unlimited = replace(
        config.data,
        max_prompt_tokens=_UNLIMITED,
        max_response_tokens=_UNLIMITED,
        long_prompts=PromptOverflow.drop,
    )
    whole = load_preferences(unlimited, chat)
    given = [*whole.train, *whole.held_out]
    sections = [_counts(config, data), _lengths(given), _limits(config, data, given), tokens_section(config, chat)]
    samples = [sample for i in places for sample in _samples(config, chat, i, data.train[i])]
    return View([*sections, _loss(config)], samples)


def _counts(config: Config, data: Preferences) -> Section:
    counts = dict(data.counts)
    rows, train, held_out = counts.pop("rows"), counts.pop("train"), counts.pop("held_out")
    aside = counts.pop("set_aside", 0)
    lines = [
        ("read from", config.data.named()),
        ("rows read", str(rows)),
        ("training pairs", f"{train} on {counts['train_prompts']} prompts"),
        ("held-out pairs", f"{held_out} on {counts['held_out_prompts']} prompts"),
    ]
    if aside:
        lines.append(("set aside for evaluation.reward_model", str(aside)))
    dropped = {name.removesuffix("_dropped"): n for name, n in counts.items() if name.endswith("_dropped")}
    total = sum(dropped.values())
    why = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in dropped.items() if n)
    lines.append(("dropped", f"{total} ({why})" if total else "0"))
    lines += [("note", note) for note in data.notes]
    return Section("Rows", lines)


def _lengths(pairs: Sequence[Pair]) -> Section:
    lengths = {
        "prompts": [len(prompt.input_ids) for prompt in prompts_of(pairs)],
        "chosen": [len(pair.chosen_ids) for pair in pairs],
        "rejected": [len(pair.rejected_ids) for pair in pairs],
    }
    head = ("tokens, before any limit", "min", "median", "95%", "max")
    return Section("Lengths", [head, *((name, *quantiles(values)) for name, values in lengths.items())], headed=True)


def quantiles(values: Iterable[int]) -> tuple[str, str, str, str]:
    """Format minimum, median, 95% quantile (the smallest value that 95% do not exceed) and maximum."""
    ordered = sorted(values)
    high = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return str(ordered[0]), f"{statistics.median(ordered):g}", str(high), str(ordered[-1])


def _limits(config: Config, data: Preferences, pairs: Sequence[Pair]) -> Section:
    """Count the pairs and prompts, of those without any limit, that each limit reaches."""
    own, longest = config.data, config.rollout.new_tokens
    long = sum(len(pair.prompt.input_ids) > own.prompt_tokens for pair in pairs)
    cut = sum(max(len(p.chosen_ids), len(p.rejected_ids)) > own.response_tokens for p in pairs)
    beyond = sum(len(pair.chosen_ids) > longest for pair in pairs)
    dropped = {PromptOverflow.drop: "dropped", PromptOverflow.truncate: "cut: their prompts lose the first tokens"}
    kept = f"cut: {data.counts['responses_cut']} responses of the pairs kept lose their last tokens and their end"
    reached = [
        (f"data.max_prompt_tokens={own.max_prompt_tokens}", long, dropped.get(own.long_prompts, "refused")),
        (f"data.max_response_tokens={own.max_response_tokens}", cut, kept),
        (f"rollout.max_new_tokens={longest}", beyond, "a sampled response cannot be as long as the chosen one"),
    ]
    lines = [(key, f"{n} of {len(pairs)} pairs", what if n else "") for key, n, what in reached]
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


def _loss(config: Config) -> Section:
    """Say in words which tokens the method learns from."""
    method = config.method
    if isinstance(method, OnPolicyConfig | TRLOnPolicyConfig):
        text = "responses that the policy samples to these prompts; the given ones are not trained on"
    elif isinstance(method, RewardModelMethodConfig):
        text = "the score at the last token of each response"
    elif _sides(config):
        text = (
            f"every token of the {' and the '.join(_SIDES[side] for side in _sides(config))} response, its end included"
        )
    else:
        text = "nothing: the method does not train"
    return Section("In the loss", [(method.name, text)])


def _sides(config: Config) -> Sequence[str]:
    """Return the fields of a pair whose tokens the method's loss counts."""
    if isinstance(config.method, TRLPairsConfig):
        return BOTH
    return algorithm_class(config.method.name).sides if isinstance(config.method, OfflineConfig) else ()


def _samples(config: Config, chat: ChatTokenizer, place: int, pair: Pair) -> list[Sample]:
    """Write the two sequences of a pair as the model reads them."""
    scored, counted, prompt = isinstance(config.method, RewardModelMethodConfig), _sides(config), pair.prompt.input_ids
    samples = []
    for side, name in _SIDES.items():
        ids = getattr(pair, side)
        last = len(ids) - 1 if scored else 0 if side in counted else len(ids)  # the first token that counts
        cut = "" if ids[-1] in chat.end_ids else "; cut, without its end"
        title = f"row {place + 1}, {name}: {len(prompt)} + {len(ids)} tokens{cut}"
        parts = (Segment(text(chat, [*prompt, *ids[:last]])), Segment(text(chat, ids[last:]), counts=True))
        samples.append(Sample(title, [part for part in parts if part.text]))
    return samples


def text(chat: ChatTokenizer, ids: Sequence[int]) -> str:
    """Decode tokens with special ones written out."""
    return chat.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
