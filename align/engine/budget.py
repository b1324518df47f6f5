"""How many tokens go through a model at once where nobody has said so."""

from transformers import PretrainedConfig

MEMORY = 4 * 2**30  # bytes of what a backward pass needs, in fp32; bf16 takes half with LoRA, most of it without
FEWEST, MOST = 512, 8192
FORWARD_TOKENS = 16384  # padded tokens of a pass without gradients, and without logits of them all


def micro_batch_tokens(config: PretrainedConfig, given: int | None = None) -> int:
    """Padded tokens of one forward and backward pass: `given`, else a power of two that keeps activations near MEMORY.

    A function of the model's dimensions and of nothing that a machine has free, so that a run adds its gradients up in
    the same order everywhere. A layer of width d and feed-forward width f keeps about 12 d + 3 f numbers a token, and
    the head one a vocabulary entry (LLaMA's layers, counted over the tensors that autograd saves:
    `python scripts/bench/activations.py`).
    """
    if given is not None:
        return given
    text = config.get_text_config()
    numbers = text.num_hidden_layers * layer_numbers(text) + text.vocab_size
    fitting = MEMORY // (4 * numbers)
    return min(MOST, max(FEWEST, 1 << (fitting.bit_length() - 1))) if fitting else FEWEST


def layer_numbers(config: PretrainedConfig) -> int:
    """Count the numbers that a layer keeps of a token for the backward pass: 12 d + 3 f."""
    return 12 * config.hidden_size + 3 * feed_forward(config)


def feed_forward(config: PretrainedConfig) -> int:
    """What a token passes through in a layer: the widest of them where they differ, all experts that it is sent to."""
    names = ("moe_intermediate_size", "intermediate_size", "ffn_dim", "n_inner")
    given = next((n for key in names if (n := getattr(config, key, None))), 4 * config.hidden_size)
    width = max(given) if isinstance(given, list | tuple) else given
    return int(width) * (getattr(config, "num_experts_per_tok", None) or 1)
