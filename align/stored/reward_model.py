"""The reward model of a run: trained once from its preference pairs by TRL's RewardTrainer, stored, and reused.

With `trained_on=prefixes` a second stage follows (trainers/reward_model_prefix.py), on the stored result of the first.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)

from align.config import Config, RewardModelSource, TrainedOn
from align.data.preferences import digest
from align.engine.budget import FORWARD_TOKENS, micro_batch_tokens
from align.engine.sampling import right_pad
from align.engine.value_head import ValueHead, body_of, linear_head
from align.errors import InputError
from align.functional.batching import token_batches
from align.models.adapters import lora_config
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import fingerprint, load_causal_lm
from align.models.reward_folder import RewardCard
from align.stored.prefix_stage import FRACTIONS, prefix_figures, train_on_prefixes
from align.stored.store import find_or_make
from align.types import Pair
from align.worlds import resolve

FORMAT = 2  # raised when a stored reward model of an older version must not be reused


def ensure_reward_model(
    config: Config,
    source: RewardModelSource,
    chat: ChatTokenizer,
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    *,
    device: torch.device,
    dtype: torch.dtype,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """The folder of the reward model that `source` names, trained now if nobody has trained it before.

    Args:
        say: Told in a line when training starts and how it ended.
    """
    if source.path is not None:
        return Path(resolve(source.path, "reward.source.path")).expanduser()
    key = reward_model_key(config, source, train, held_out)

    def make(folder: Path) -> None:
        card = train_reward_model(
            folder, config, source, chat, train, held_out, device=device, dtype=dtype, key=key, say=say
        )
        if card.accuracy is not None and card.longer_wins is not None:
            told = f"held-out accuracy {card.accuracy:.3f}; the longer response wins {card.longer_wins:.3f}"
            say(f"reward model trained in {card.seconds:.0f} s: {told}")
        if card.prefix_scores is not None and source.trained_on is TrainedOn.prefixes:
            say(f"correlation of prefix scores with the final one: {_correlations(card.prefix_scores)}")

    return find_or_make("reward_models", key, make)


def _correlations(figures: Mapping[str, Any]) -> str:
    """`end .41/.52`, one number for each of FRACTIONS."""
    told = {name: [found["correlation"][f"{f:g}"] for f in FRACTIONS] for name, found in figures.items()}
    return ", ".join(f"{name} {'/'.join(f'{value:.2f}' for value in row)}" for name, row in told.items())


def reward_model_key(
    config: Config, source: RewardModelSource, train: Sequence[Pair], held_out: Sequence[Pair]
) -> dict[str, Any]:
    """What names a trained reward model. Tokens stand for the data: they hold texts, template and cuts.

    Precision and device are left out on purpose, so that a model trained on one machine serves the others; the card
    says which precision it was.
    """
    adapter = {"name": "none"} if config.adapter.name == "none" else asdict(config.adapter)
    return {
        "format": FORMAT,
        "base": fingerprint(config.model.path, config.model.revision),
        "pairs": digest(train),
        "held_out": digest(held_out),
        "adapter": adapter,
        "quantization": config.quantization.name,
        "settings": source.training(),
    }


def train_reward_model(
    folder: Path,
    config: Config,
    source: RewardModelSource,
    chat: ChatTokenizer,
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    *,
    device: torch.device,
    dtype: torch.dtype,
    key: dict[str, Any],
    say: Callable[[str], None] = lambda line: None,
    start: Path | None = None,
) -> RewardCard:
    """Train on `train`, measure on `held_out`, and write model and card into `folder`; `say` hears of every tenth.

    Args:
        start: With trained_on=prefixes, the model that the first stage left; None = as it is stored, or trained now.
    """
    on: dict[str, Any] = {"device": device, "dtype": dtype, "say": say}
    if source.trained_on is TrainedOn.end:
        say(f"training the reward model on {len(train)} pairs, once")
        return _train_at_end(folder, config, source, chat, train, held_out, key=key, **on)
    if start is None:
        at_end = replace(source, trained_on=TrainedOn.end)
        start = ensure_reward_model(config, at_end, chat, train, held_out, **on)
    say("training the reward model on prefixes, once")

    def accuracy(scorer: ValueHead) -> float | None:
        return pair_accuracy(scorer, chat, held_out) if held_out else None

    return train_on_prefixes(folder, start, config, source, chat, train, held_out, accuracy=accuracy, key=key, **on)


def _train_at_end(
    folder: Path,
    config: Config,
    source: RewardModelSource,
    chat: ChatTokenizer,
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    *,
    device: torch.device,
    dtype: torch.dtype,
    key: dict[str, Any],
    say: Callable[[str], None],
) -> RewardCard:
    """Bradley-Terry on whole responses, by TRL."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer  # seconds to import, and only a first run needs it

    started = time.perf_counter()
    torch.manual_seed(source.seed)
    model = classifier_on(config, chat, device, dtype)
    arguments = RewardConfig(
        output_dir=str(folder),  # it writes nothing there: no checkpoints, no reports
        per_device_train_batch_size=source.batch_size,
        num_train_epochs=source.epochs,
        learning_rate=source.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.05,  # of all steps
        train_sampling_strategy="group_by_length",  # 1.7 times the speed of mixed lengths on the embedded pairs
        remove_unused_columns=False,  # the lengths to group by
        center_rewards_coefficient=source.center_coef,
        max_length=None,
        seed=source.seed,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        use_cpu=device.type == "cpu",
        gradient_checkpointing=None,  # the old name, which TRL sets and transformers warns of
        activation_checkpointing=config.model.gradient_checkpointing,
        dataloader_pin_memory=False,
        logging_steps=0.1,  # of all steps
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )

    class Trainer(InParts, RewardTrainer):
        """TRL's, a micro-batch at a time."""

    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([_token_row(pair) for pair in train]),
        processing_class=with_pad(chat),
        peft_config=None if config.adapter.name == "none" else lora_config(config.adapter, "SEQ_CLS"),
    )
    for parameter in model.parameters():
        if parameter.requires_grad:  # TRL puts adapters on a quantized base into bf16, where small updates are lost
            parameter.data = parameter.data.float()
    trainer.budget = micro_batch_tokens(model.config, source.micro_batch_tokens)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Lines(say))
    trainer.train()
    trained = trainer.accelerator.unwrap_model(trainer.model).eval()
    head = model.score.modules_to_save["default"] if hasattr(model.score, "modules_to_save") else model.score
    scorer = ValueHead(body_of(model), linear_head(head.weight).to(device), dtype)
    card = RewardCard(
        accuracy=pair_accuracy(scorer, chat, held_out) if held_out else None,
        longer_wins=longer_wins(held_out) if held_out else None,
        held_out_pairs=len(held_out),
        train_pairs=len(train),
        seconds=time.perf_counter() - started,
        key=key,
        precision=str(dtype).removeprefix("torch."),
        prefix_scores={"end": prefix_figures(scorer, chat, held_out)} if held_out else None,
    )
    trained.save_pretrained(folder)
    chat.tokenizer.save_pretrained(folder)
    card.write(folder)
    return card


class InParts:
    """Before TRL's RewardTrainer among a class's bases: a batch's pairs, split by tokens, with the gradient of all.

    Its own way is gradient accumulation over micro-batches of equally many pairs, however long these are.
    """

    budget: int  # padded tokens of one forward and backward pass
    _share = 1.0  # of the batch's pairs

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """`inputs` has the chosen sides above the rejected ones: input_ids and attention_mask (2B, T)."""
        if inputs.keys() != {"input_ids", "attention_mask"} or not bool(inputs["attention_mask"][:, 0].all()):
            raise TypeError(f"a batch of {sorted(inputs)}: expected input_ids and attention_mask, padded on the right")
        lengths = inputs["attention_mask"].sum(1).view(2, -1)
        pairs = lengths.shape[1]
        whole = [torch.arange(pairs, device=lengths.device)]
        fits = inputs["attention_mask"].numel() <= self.budget  # then as TRL does it, however different the lengths
        losses = []
        for index in whole if fits else token_batches(2 * lengths.amax(0), self.budget):
            rows, width = torch.cat([index, index + pairs]), int(lengths[:, index].max())
            part = {name: tensor[rows, :width] for name, tensor in inputs.items()}
            self._share = len(index) / pairs
            losses.append(super().training_step(model, part, *args, **kwargs))  # type: ignore[misc]
        self._share = 1.0
        return torch.stack(losses).sum()

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """A mean over the part's pairs, times the part's share of the batch."""
        return self._share * super().compute_loss(*args, **kwargs)  # type: ignore[misc]


class _Lines(TrainerCallback):
    """A line whenever the trainer logs, since a first run may wait minutes for its reward model."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            accuracy = float(logs.get("accuracy", math.nan))
            self._say(f"  reward model step {state.global_step}/{state.max_steps}  accuracy {accuracy:.3f}")


def with_pad(chat: ChatTokenizer) -> PreTrainedTokenizerBase:
    """A copy whose pad token is the chat's PAD: where it had none TRL would take EOS, and then read the score of the
    last token that is not EOS."""
    tokenizer = copy.deepcopy(chat.tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(chat.pad_id)
    return tokenizer


def _token_row(pair: Pair) -> dict[str, list[int] | int]:
    """Tokenised here, so that the reward model reads exactly what the policy writes."""
    prompt, longest = pair.prompt.input_ids, max(len(pair.chosen_ids), len(pair.rejected_ids))
    return {
        "chosen_ids": [*prompt, *pair.chosen_ids],
        "rejected_ids": [*prompt, *pair.rejected_ids],
        "length": len(prompt) + longest,
    }


def classifier_on(config: Config, chat: ChatTokenizer, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The start model's body under a fresh scalar head, N(0, 1 / (d + 1)) (arXiv 1909.08593; N, detail on heads)."""
    whole = config.adapter.name == "none"
    causal = load_causal_lm(
        config.model,
        dtype=torch.float32 if whole else dtype,
        device=device,
        quantization=None if whole else config.quantization,
    )
    settings = copy.deepcopy(causal.config)
    settings.num_labels = 1
    settings.pad_token_id = settings.get_text_config().pad_token_id = chat.pad_id
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(settings)
    if not isinstance(getattr(model, "score", None), nn.Linear):
        allowed = "an architecture whose sequence classifier has a linear `score` head"
        raise InputError("model.path", f"{config.model.path} ({type(model).__name__})", allowed)
    setattr(model, model.base_model_prefix, body_of(causal))
    width = model.score.in_features  # not always hidden_size: OPT-350m projects its states
    model.score = nn.Linear(width, 1, bias=False).to(device)
    nn.init.normal_(model.score.weight, std=(width + 1) ** -0.5)
    for name in ("is_quantized", "is_loaded_in_8bit", "is_loaded_in_4bit", "quantization_method", "hf_quantizer"):
        if hasattr(causal, name):
            setattr(model, name, getattr(causal, name))
    return model


@torch.no_grad()
def pair_accuracy(
    scorer: ValueHead, chat: ChatTokenizer, pairs: Sequence[Pair], token_budget: int = FORWARD_TOKENS
) -> float:
    """Share of pairs whose chosen response scores above the rejected one, ties counting half."""
    sides = [[*p.prompt.input_ids, *r] for p in pairs for r in (p.chosen_ids, p.rejected_ids)]
    ids = right_pad([torch.tensor([row], device=scorer.device) for row in sides], chat.pad_id)
    lengths = torch.tensor([len(row) for row in sides], device=scorer.device)
    scores = torch.zeros(len(sides), device=scorer.device)
    for index in token_batches(lengths, token_budget):
        n = lengths[index]
        mask = (torch.arange(int(n.max()), device=n.device) < n.unsqueeze(1)).long()
        every = scorer(ids[index, : mask.shape[1]], mask)
        scores[index] = every.gather(1, (n - 1).unsqueeze(1)).squeeze(1)
    margin = scores[0::2] - scores[1::2]
    return float(((margin > 0).float() + 0.5 * (margin == 0).float()).mean())


def longer_wins(pairs: Sequence[Pair]) -> float:
    """Accuracy of the judge that prefers the response with more tokens; what a reward model must beat."""
    margins = [len(p.chosen_ids) - len(p.rejected_ids) for p in pairs]
    return sum(1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m in margins) / len(margins)
