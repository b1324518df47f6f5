"""Fingerprints of a tokenizer and of its chat template, independent of where they lie."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> str:
    """Compute the fingerprint of what decides on token ids: the tokenizer's model, added tokens and end tokens."""
    added = {i: str(token) for i, token in sorted(tokenizer.added_tokens_decoder.items())}
    parts = [type(tokenizer).__name__, added, list(end_ids), tokenizer.bos_token_id]
    digest = hashlib.sha256(json.dumps(parts).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        passing = ("truncation", "padding")  # those of the last call
        digest.update(json.dumps({key: value for key, value in state.items() if key not in passing}).encode())
        return digest.hexdigest()
    digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    file = getattr(tokenizer, "vocab_file", None)  # of SentencePiece, which holds its merges
    if file is not None and Path(file).is_file():
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def template_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Compute the fingerprint of the text of the chat template, or of all where the tokenizer has several."""
    return hashlib.sha256(json.dumps(tokenizer.chat_template, sort_keys=True).encode()).hexdigest()
