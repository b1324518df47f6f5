"""Models and tokenizers from disk or the Hub: safetensors only, no remote code unless asked for, no dropout.

What cannot be loaded ends in an InputError that names the config key.
"""

import json
import os
import tempfile
from contextlib import suppress
from datetime import date
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from align.config import ControlTokensIn, ModelConfig, QuantizationConfig
from align.config.automatic import ModelFacts
from align.errors import InputError
from align.models.chat_setup import make_chat_tokenizer
from align.models.chat_tokenizer import ChatTokenizer
from align.models.locate import Checkpoint, head_file, locate, one_line, refuse_pickles
from align.models.quantize import keep_differentiable, quantization_config
from align.worlds import ASSETS

_DIMENSIONS = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
_HEADS = ("score", "classifier")  # what sequence classifiers call their last layer


def load_tokenizer(config: ModelConfig, *, key: str = "model.path") -> PreTrainedTokenizerBase:
    """The model's tokenizer as it was stored; `load_chat_tokenizer` settles PAD, the template and the end tokens."""
    checkpoint = locate(config.path, config.revision, key=key)
    with one_line(key, config.path):
        return AutoTokenizer.from_pretrained(
            checkpoint.tokenizer, revision=checkpoint.revision, trust_remote_code=config.trust_remote_code
        )


def is_reward_model(path: str, revision: str | None = None, *, key: str = "model.path") -> bool:
    """Whether `path` is a sequence classifier, or an adapter that makes one of its base; weights are not read."""
    checkpoint = locate(path, revision, key=key)
    if head_file(checkpoint) is not None:
        return True
    with one_line(key, path):
        if checkpoint.adapter is not None:
            return str(PeftConfig.from_pretrained(str(checkpoint.adapter)).task_type) == "SEQ_CLS"
        return _is_classifier(_load_config(checkpoint, trust_remote_code=False))


def model_facts(config: ModelConfig) -> ModelFacts:
    """What the model's config.json says of its size and origin; weights are not read."""
    checkpoint = locate(config.path, config.revision)
    with one_line("model.path", config.path):
        text_config = _load_config(checkpoint, config.trust_remote_code).get_text_config()
    context = getattr(text_config, "max_position_embeddings", None)
    return ModelFacts(_is_pocket(text_config), getattr(text_config, "hidden_size", None), context)


def context_length(config: ModelConfig) -> int | None:
    """Positions that the model was made for; None where its configuration names no limit."""
    return model_facts(config).context


def _is_pocket(text_config: PreTrainedConfig) -> bool:
    """Whether a model has the dimensions of the embedded world's, as one trained from it has wherever it lies."""
    own = json.loads((ASSETS / "pocket" / "model" / "config.json").read_text())
    return all(getattr(text_config, name, None) == own[name] for name in _DIMENSIONS)


def load_chat_tokenizer(config: ModelConfig) -> ChatTokenizer:
    """The chat of the model that `config` names (`make_chat_tokenizer`); refused with more tokens than the model."""
    checkpoint = locate(config.path, config.revision)
    with one_line("model.path", config.path):
        model_config = _load_config(checkpoint, config.trust_remote_code)
        generation = GenerationConfig.from_model_config(model_config)
        with suppress(OSError):  # many checkpoints have none
            generation = GenerationConfig.from_pretrained(checkpoint.base, revision=checkpoint.revision)
    rows = model_config.get_text_config().vocab_size
    chat = make_chat_tokenizer(
        load_tokenizer(config),
        generation,
        config.chat_template,
        vocab_size=rows,
        arguments=config.template_arguments,
        parses=config.control_tokens_in_text is ControlTokensIn.tokens,
        mismatch=config.template_mismatch,
        today=None if config.template_date is None else date.fromisoformat(config.template_date),
    )
    largest = max(*chat.encode_prompt([{"role": "user", "content": "hello"}]), chat.end_id, chat.pad_id)
    if largest >= rows:
        allowed = f"a tokenizer that fits its {rows} embeddings (it has id {largest})"
        raise InputError("model.path", config.path, allowed)
    return chat


def load_causal_lm(
    config: ModelConfig, *, dtype: torch.dtype, device: torch.device, quantization: QuantizationConfig | None = None
) -> PreTrainedModel:
    """A causal LM in eval mode, without dropout, on `device`; a reward model, or one that lacks weights, is refused.

    `dtype` is that of the weights; with quantization, of what stays unquantized and of compute. An adapter is merged
    into this copy of its base, in fp32 and before any rounding or quantization.
    """
    checkpoint = locate(config.path, config.revision)
    if head_file(checkpoint) is not None:  # with tied embeddings its body would pass for a whole language model
        raise InputError("model.path", config.path, "a causal language model (reward.source.path takes a reward model)")
    options: dict[str, Any] = {"dtype": dtype, "device": device, "key": "model.path"}
    quantized = quantization_config(quantization, dtype) if quantization is not None else None
    if quantized is None or checkpoint.adapter is None:
        return _load(AutoModelForCausalLM, checkpoint, config, **options, quantized=quantized)
    with tempfile.TemporaryDirectory() as folder:
        whole = options | {"dtype": torch.float32, "device": torch.device("cpu")}
        _load(AutoModelForCausalLM, checkpoint, config, **whole).save_pretrained(folder)
        return _load(AutoModelForCausalLM, Checkpoint(folder, None), config, **options, quantized=quantized)


def load_skeleton(config: ModelConfig) -> PreTrainedModel:
    """The causal LM that `config` names without its weights, on the meta device: modules and shapes alone."""
    checkpoint = locate(config.path, config.revision)
    if head_file(checkpoint) is not None:
        raise InputError("model.path", config.path, "a causal language model (reward.source.path takes a reward model)")
    arguments: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if config.attn_implementation:
        arguments["attn_implementation"] = config.attn_implementation
    with one_line("model.path", checkpoint.base), torch.device("meta"):
        settings = without_dropout(_load_config(checkpoint, config.trust_remote_code))
        return AutoModelForCausalLM.from_config(settings, dtype=torch.float32, **arguments).eval()


def body_of(model: PreTrainedModel, key: str = "model.path") -> PreTrainedModel:
    """The transformer of a model without its head; an architecture that keeps none apart from its head is refused."""
    body = getattr(model, model.base_model_prefix or "", None)
    if not isinstance(body, PreTrainedModel):
        allowed = "an architecture whose transformer can be read without its head"
        raise InputError(key, type(model).__name__, allowed)
    return body


def states_width(model: PreTrainedModel) -> int:
    """Of the states that a head reads; not always hidden_size (OPT-350m projects them)."""
    return int(model.get_output_embeddings().in_features)


def load_body(path: str, *, dtype: torch.dtype, device: torch.device, key: str) -> PreTrainedModel:
    """The transformer of a stored reward model, its adapter merged, in eval mode, without dropout."""
    checkpoint, config = locate(path, key=key), ModelConfig(path=path)
    if checkpoint.adapter is None:
        return _load(AutoModel, checkpoint, config, dtype=dtype, device=device, key=key)
    return body_of(_load(AutoModelForCausalLM, checkpoint, config, dtype=dtype, device=device, key=key), key)


def load_sequence_classifier(
    path: str, *, dtype: torch.dtype, device: torch.device, pad_id: int | None = None, key: str = "reward.source.path"
) -> PreTrainedModel:
    """A sequence classifier in eval mode, without dropout, on `device`; refused with more outputs than one.

    `pad_id` overrides the checkpoint's pad token; where neither is given, the chat of `path` chooses one.
    """
    checkpoint, settings = locate(path, key=key), ModelConfig(path=path)
    with one_line(key, path):
        config = _load_config(checkpoint, trust_remote_code=False)
    if checkpoint.adapter is not None:
        config.num_labels = 1
        with safe_open(checkpoint.adapter / "adapter_model.safetensors", framework="pt") as weights:
            names = {part for name in weights.keys() for part in name.split(".")}  # noqa: SIM118
        if names.isdisjoint(_HEADS):
            raise InputError(key, str(checkpoint.adapter), "an adapter stored with its head (score.weight)")
    kinds = config.architectures or []
    if checkpoint.adapter is None and kinds and not _is_classifier(config):
        raise InputError(key, f"{path} ({', '.join(kinds)})", "a sequence classifier with one output")
    if config.num_labels != 1:
        raise InputError(key, f"{path} (num_labels={config.num_labels})", "a sequence classifier with num_labels=1")
    text_config = config.get_text_config()
    if pad_id is None and text_config.pad_token_id is None:
        pad_id = load_chat_tokenizer(settings).pad_id
    if pad_id is not None:
        config.pad_token_id = text_config.pad_token_id = pad_id
    auto = AutoModelForSequenceClassification
    return _load(auto, checkpoint, settings, dtype=dtype, device=device, key=key, config=config)


def has_linear_head(path: str, key: str) -> bool:
    """Whether the reward model at `path` has a linear head: of its own file, or `score` as transformers names it."""
    checkpoint = locate(path, key=key)
    if head_file(checkpoint) is not None:
        return True
    with one_line(key, path):
        config = _load_config(checkpoint, trust_remote_code=False)
        if checkpoint.adapter is not None:
            config.num_labels = 1
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    return isinstance(getattr(model, "score", None), nn.Linear)


def without_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    """Set every dropout probability of `config` and of the configs in it to 0, in place (TRL PR 639)."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            without_dropout(value)
        elif isinstance(value, float) and any(word in name for word in ("dropout", "pdrop", "layerdrop")):
            setattr(config, name, 0.0)
    return config


def _load(
    auto: Any,
    checkpoint: Checkpoint,
    settings: ModelConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    key: str,
    config: PreTrainedConfig | None = None,
    quantized: Any = None,
) -> PreTrainedModel:
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # else pickled Hub weights come back as someone's converted PR
    refuse_pickles(checkpoint, key)
    arguments: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    if settings.attn_implementation:
        arguments["attn_implementation"] = settings.attn_implementation
    if quantized is not None:
        arguments |= {"quantization_config": quantized, "device_map": {"": device}}
    adapter = checkpoint.adapter
    with one_line(key, checkpoint.base):
        model, info = auto.from_pretrained(
            checkpoint.base,
            config=without_dropout(config or _load_config(checkpoint, settings.trust_remote_code)),
            revision=checkpoint.revision,
            dtype=dtype if adapter is None else torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **arguments,
        )
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(adapter), config=PeftConfig.from_pretrained(str(adapter)))
            model = model.merge_and_unload(safe_merge=True).requires_grad_(True).to(dtype)  # PEFT has frozen the base
    missing = sorted(info["missing_keys"])
    if adapter is not None and auto is AutoModelForSequenceClassification:
        missing = [name for name in missing if not name.startswith(_HEADS)]  # the adapter brought its own
    if missing:
        allowed = f"a checkpoint with all weights of a {type(model).__name__} ({missing[0]})"
        raise InputError(key, checkpoint.base, allowed)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if quantized is None:
        model = model.to(device)
    keep_differentiable(model)  # the checkpoint may be a quantized one
    return model.eval()


def _load_config(checkpoint: Checkpoint, trust_remote_code: bool) -> PreTrainedConfig:
    options = {"revision": checkpoint.revision, "trust_remote_code": trust_remote_code}
    return AutoConfig.from_pretrained(checkpoint.base, **options)


def _is_classifier(config: PreTrainedConfig) -> bool:
    return any("SequenceClassification" in kind for kind in config.architectures or [])
