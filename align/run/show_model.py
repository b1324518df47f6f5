"""The model of a run before anything is trained: its shape, what is trained of it, the plan. No weights are read."""

from collections import Counter

from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from align.config import Config, LoopConfig
from align.config.automatic import settle
from align.config.trl import TRLConfig
from align.data.prepared import Preferences
from align.engine.budget import micro_batch_tokens
from align.engine.engine import Engine
from align.engine.reference import Policy
from align.libraries import quiet
from align.models.adapters import POLICY
from align.models.chat_tokenizer import ChatTokenizer
from align.models.hardware import memory_left_mib, resolve_device, resolve_precision, torch_dtype
from align.models.load import context_length, load_chat_tokenizer, load_skeleton, model_facts
from align.numbers import amount
from align.run.memory_plan import plan_memory
from align.run.plan import Planned, planned
from align.run.show_data import tokens_section
from align.run.stages import check_attention, check_context, load_data
from align.run.views import Sample, Section, Segment, View

_CONVERSATION = ({"role": "user", "content": "Why is the sky blue?"}, {"role": "assistant", "content": "It scatters."})


def show_model(config: Config) -> View:
    """Describe model, tokenizer and plan from configuration files and data alone.

    Raises:
        InputError: As the run itself would.
    """
    quiet()
    config, chat = settle(config, model_facts(config.model)).config, load_chat_tokenizer(config.model)
    check_attention(config)
    data, aside = load_data(config, chat)
    check_context(config, data)
    model = load_skeleton(config.model)
    sections = [_model(config, model), *_trained(config, model), tokens_section(config, chat)]
    plan = _plan(config, model, planned(config, data, aside))
    return View([*sections, plan, *_memory(config, data)], [_conversation(chat)])


def _model(config: Config, model: PreTrainedModel) -> Section:
    device = resolve_device(config)
    precision, why = resolve_precision(config.precision, device)
    text = model.config.get_text_config()
    limit = context_length(config.model)
    shape = {"layers": "num_hidden_layers", "wide": "hidden_size", "heads": "num_attention_heads"}
    sizes = ", ".join(f"{value} {name}" for name, key in shape.items() if (value := getattr(text, key, None)))
    lines = [
        ("read from", config.model.path),
        ("architecture", f"{type(model).__name__} ({sizes}, {text.vocab_size} tokens)"),
        ("context", "no limit stated" if limit is None else f"{limit} tokens"),
        ("precision", f"{precision.value} on {device.type} ({why})"),
    ]
    return Section("Model", lines)


def _trained(config: Config, model: PreTrainedModel) -> list[Section]:
    """Count the parameters before and after the adapter is put on, and say which fast paths the engine takes."""
    device, engine = resolve_device(config), Engine.of(config)
    dtype = torch_dtype(resolve_precision(config.precision, device)[0])
    lora, quantized = config.adapter.name == "lora", config.quantization.name != "none"
    # Weights that nobody writes to take no memory of a CPU, where the reasons of a path ask for the model's device.
    placed = device.type == "cpu" and not quantized
    total = model.num_parameters()
    if placed:
        model = model.to_empty(device=device)
        model.tie_weights()
    shared = engine.shared_base(model, config.adapter, config.seed) if lora else None
    policy = engine.policy(model, dtype, shared, POLICY if lora else None)
    count = sum(parameter.numel() for parameter in policy.trained_parameters().values())
    if not config.method.trains:
        count = 0
    lines = [("all", f"{total:,}"), ("trained", f"{count:,} ({100 * count / total:.2g}%)")]
    if lora:
        adapter = config.adapter
        lines.append(("LoRA", f"rank {adapter.r}, alpha {adapter.alpha}, on {_targets(policy)}"))
        stored = config.quantization.name if quantized else str(dtype).removeprefix("torch.")
        lines.append(("weights", f"adapter in float32 on a frozen base in {stored}"))
    else:
        lines.append(("weights", "float32, of the policy and of a frozen copy, its reference"))
    if config.method.critic is not None:
        lines.append(("critic", "as many trained parameters again, and a head"))
    return [Section("Parameters", lines), _paths(config, engine, policy, placed)]


def _targets(policy: Policy) -> str:
    """Name the layers that carry the adapter, with their number."""
    layers = (name for name, module in policy.model.named_modules() if isinstance(module, BaseTunerLayer))
    names = Counter(name.rpartition(".")[2] for name in layers)
    return ", ".join(f"{name} ({count})" for name, count in names.items())


def _paths(config: Config, engine: Engine, policy: Policy, placed: bool) -> Section:
    if not placed and engine.fast:
        return Section("Fast paths", [("engine", "known once the weights are on the device: run.json lists them")])
    report = engine.report(policy, cuda_graphs=config.rollout.cuda_graphs)
    lines = [(name, "on" if path["on"] else f"off: {path['why']}") for name, path in report["paths"].items()]
    return Section("Fast paths", lines)


def _plan(config: Config, model: PreTrainedModel, stages: list[Planned]) -> Section:
    head = ("trained", "updates", "rows of one", "learns from", "stored")
    lines = [(s.name, str(s.updates), str(s.rows), s.learns_from, str(s.stored or "")) for s in stages]
    if not lines:
        lines = [(config.method.name, "0", "0", "nothing is trained", "")]
    method = config.method
    if isinstance(method, LoopConfig):
        budget = micro_batch_tokens(model.config, method.micro_batch_tokens)
        lines.append(("micro-batch", "", "", f"at most {budget} tokens, padding included", ""))
    elif isinstance(method, TRLConfig) and method.micro_batch_size is not None:
        lines.append(("micro-batch", "", str(method.micro_batch_size), "", ""))
    measured = config.evaluation
    lines.append(("evaluation", "", str(measured.num_prompts), "held-out prompts, before and after", ""))
    return Section("Plan", [head, *lines], headed=True)


def _memory(config: Config, data: Preferences) -> list[Section]:
    """Estimate what takes the run's memory; nothing where TRL's trainers take it."""
    device = resolve_device(config)
    dtype = torch_dtype(resolve_precision(config.precision, device)[0])
    left = memory_left_mib(device)
    plan = plan_memory(config, load_skeleton(config.model), data, device=device, dtype=dtype, left=left)
    if plan is None:
        return []
    lines = [(f"weights of the {name}", amount(size)) for name, size in plan.weights.items()]
    lines += [(f"updates: {name}", amount(size)) for name, size in plan.updates.items()]
    lines += [("or sampling", amount(plan.sampling)), ("or evaluation", amount(plan.evaluation))]
    lines += [("program", amount(plan.process)), ("at the peak", f"about {amount(plan.peak)}")]
    lines += [] if left is None else [("left here", amount(left))]
    lines += [] if plan.verdict is None else [(plan.verdict.level, plan.verdict.text)]
    return [Section("Memory", lines)]


def _conversation(chat: ChatTokenizer) -> Sample:
    """Render a conversation as the template writes it; what a response is trained to be counts."""
    prompt, answer = (
        chat.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for ids in (chat.encode_prompt(_CONVERSATION[:1]), chat.encode_reply(_CONVERSATION[:1], _CONVERSATION[1]))
    )
    return Sample("a conversation under the chat template", [Segment(prompt), Segment(answer, counts=True)])
