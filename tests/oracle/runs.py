"""Real methods on the enumerable problem: a tokenizer of five tokens, a tiny Llama, and a reward read from a table."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from align.callbacks.base import Callback
from align.config import (
    AdapterConfig,
    CheckpointConfig,
    Config,
    CreditConfig,
    DataConfig,
    EvaluationConfig,
    GoldSource,
    MethodConfig,
    ModelConfig,
    Precision,
    QuantizationConfig,
    RewardConfig,
    RolloutConfig,
    SparseCredit,
    TrackingConfig,
    Truncated,
)
from align.engine.reference import Policy
from align.loop.loop import Loop
from align.models.chat_setup import make_chat_tokenizer
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import load_causal_lm
from align.rewards import Source, build_credit
from align.types import Pair, Prompt, RewardInput, RewardOutput
from tests.contexts import loop_of, run_context
from tests.oracle.tree import Tree, best, objective

torch.set_num_threads(1)

END, PAD, VOCABULARY, LENGTH = 0, 1, 5, 2
TREE = Tree(VOCABULARY, LENGTH, END)
APART = 19  # a seed of tables on which no two fixed points are close to each other
TEXTS = ("a", "bca", "cb")  # of different lengths, so that prompts are padded
TEMPLATE = "{% for m in messages %}{{ m['content'] }}<end>{% endfor %}"
CPU = torch.device("cpu")
_FOLDERS = tempfile.TemporaryDirectory(prefix="align-oracle-")


@cache
def chat() -> ChatTokenizer:
    words = Tokenizer(models.WordLevel(vocab={"<end>": END, "<pad>": PAD, "a": 2, "b": 3, "c": 4}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<pad>")
    tokenizer.chat_template = TEMPLATE
    return make_chat_tokenizer(tokenizer)


@cache
def folder(seed: int = 0) -> Path:
    """A random start model whose distributions are far from uniform and differ from state to state."""
    path = Path(_FOLDERS.name) / f"start-{seed}"
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.15,
        eos_token_id=END,
        pad_token_id=PAD,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    chat().tokenizer.save_pretrained(path)
    return path


def prompts() -> list[Prompt]:
    """Prompt i has id i: the row of every table."""
    made = []
    for i, text in enumerate(TEXTS):
        messages = ({"role": "user", "content": text},)
        made.append(Prompt(i, messages, text, tuple(chat().encode_prompt(messages)), {}))
    return made


def table_of(policy: Policy) -> Tensor:
    """log pi (P, S, V) in float64, from plain forward passes of the bare model without padding; with gradient."""
    tables = []
    for prompt in prompts():
        rows = []
        for depth in range(LENGTH):  # the states stand in order of their depth
            ids = torch.tensor([[*prompt.input_ids, *s] for s in TREE.states if len(s) == depth])
            rows.append(policy.model(input_ids=ids).logits[:, -1].double())
        tables.append(torch.log_softmax(torch.cat(rows), dim=-1))
    return torch.stack(tables)


class Tables:
    """Random numbers for every prompt and response: the score, a score of every prefix, and attention weights."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        size = (len(TEXTS), len(TREE.responses))
        self.scores = torch.randn(size, generator=generator)
        potential = torch.randn(len(TEXTS), len(TREE.states), generator=generator)
        # (P, R, L + 1): of the first t tokens; from a response's end on its own score
        inner = potential[:, TREE.path]
        ahead = torch.arange(LENGTH + 1) < TREE.lengths.unsqueeze(1)
        inner = torch.nn.functional.pad(inner, (0, 1))
        self.prefix_scores = torch.where(ahead, inner, self.scores.unsqueeze(-1))
        self.attention = torch.rand((*size, LENGTH), generator=generator) ** 3 * TREE.mask

    def credited(self, credit: CreditConfig) -> Tensor:
        """(P, R, L) token rewards of the scheme, as the run's own code spreads them."""
        scheme = build_credit(credit)
        rows = [scheme.assign(RewardOutput(s, prefix_scores=p, attention=a), TREE.mask) for s, p, a in self._rows()]
        return torch.stack(rows).double()

    def _rows(self) -> zip:
        return zip(self.scores, self.prefix_scores, self.attention, strict=True)


class TableSource(Source):
    """A reward source that looks up the row of the response in its prompt's table."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        rollout = batch.rollout
        p, r, width = (
            rollout.prompt_index,
            rows_of(rollout.response_ids, rollout.lengths),
            rollout.response_ids.shape[1],
        )
        tables = self._tables
        return RewardOutput(
            total=tables.scores[p, r],
            parts={"table": tables.scores[p, r]},
            prefix_scores=tables.prefix_scores[p, r, : width + 1],
            attention=tables.attention[p, r, :width],
        )


def rows_of(ids: Tensor, lengths: Tensor) -> Tensor:
    """Which response of the tree each row is: (B,)."""
    found = zip(ids.tolist(), lengths.tolist(), strict=True)
    return torch.tensor([TREE.index(tuple(row[:n])) for row, n in found])


class Records(Callback):
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_step(self, record: Any) -> None:
        self.rows.append(dict(record))


def loop(
    path: Path,
    method: MethodConfig,
    tables: Tables,
    *,
    steps: int,
    batch: int = 1,
    credit: CreditConfig | None = None,
    pairs: Sequence[Pair] = (),
    adapter: AdapterConfig | None = None,
    seed: int = 0,
    rollout: Mapping[str, Any] | None = None,
) -> tuple[Loop, Records]:
    """The method on the loop as a run assembles it, on the table's reward."""
    config = Config(
        method=method,
        model=ModelConfig(path=str(folder())),
        data=DataConfig(path="unused"),
        reward=RewardConfig(source=GoldSource(), credit=credit or SparseCredit()),
        adapter=adapter or AdapterConfig(name="none"),
        quantization=QuantizationConfig(),
        rollout=RolloutConfig(
            batch_size=batch, max_new_tokens=LENGTH, **({"truncated": Truncated.keep} | (rollout or {}))
        ),
        tracking=TrackingConfig(),
        evaluation=EvaluationConfig(),
        checkpoint=CheckpointConfig(every_steps=0),
        precision=Precision.fp32,
        max_steps=steps,
        seed=seed,
    )
    method.check(config)
    records = Records()
    source, callbacks = TableSource(tables), [records]
    run = run_context(path, config, chat(), source=source, prompts=prompts(), pairs=pairs, callbacks=callbacks)
    return loop_of(run), records


def trained(path: Path, method: MethodConfig, tables: Tables, **settings: Any) -> Tensor:
    """The table (P, S, V) of the policy at the end of a run."""
    made, _ = loop(path, method, tables, **settings)
    made.train()
    return table_of(made.run.roles.policy).detach()


def reference() -> Tensor:
    """The table of the start model."""
    return _reference().clone()


@cache
def _reference() -> Tensor:
    model = load_causal_lm(ModelConfig(path=str(folder())), dtype=torch.float32, device=CPU)
    return table_of(Policy(model, torch.float32)).detach()


def closed(table: Tensor, scores: Tensor, beta: float) -> float:
    """Share of J(pi*) - J(ref) that `table` closes."""
    ref, scores = reference(), scores.double()
    start = objective(TREE, ref, ref, scores, beta)
    return float((objective(TREE, table, ref, scores, beta) - start) / (best(TREE, ref, scores, beta) - start))
