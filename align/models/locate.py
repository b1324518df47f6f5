"""Location of a model's files: a folder, a run's folder, an adapter on its base, a shipped asset or a Hub id."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, RemoteEntryNotFoundError
from safetensors import SafetensorError

from align.errors import InputError
from align.files import content_hash, read_object
from align.hub import cached_where_unreachable
from align.libraries import reason
from align.worlds import resolve

HEAD = "head.safetensors"  # the scalar head of a reward model that align stored
_ALLOWED = "a Hugging Face model folder, a run's folder, align://pocket/model or a Hub id"
_IDENTITY = ("config.json", "adapter_config.json", "generation_config.json", "*.safetensors", "chat_template*")
_TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")


@dataclass(frozen=True)
class Checkpoint:
    """A causal LM or classifier: whole weights at `base`, and optionally an adapter on them."""

    base: str  # a folder or a Hub id
    revision: str | None  # of a Hub id
    adapter: Path | None = None

    @property
    def tokenizer(self) -> str:
        """Where the tokenizer is: beside the adapter if it was saved there, else with the base."""
        if self.adapter is not None and (self.adapter / "tokenizer_config.json").is_file():
            return str(self.adapter)
        return self.base

    @property
    def is_local(self) -> bool:
        return Path(self.base).is_dir()


def locate(path: str, revision: str | None = None, *, key: str = "model.path") -> Checkpoint:
    """Locate the model that `path` names. A run's folder (`run.json` and `model/`) stands for the model in it.

    Raises InputError, which names `key`, for a path that does not exist, a folder without a model, an adapter without
    safetensors weights or whose base cannot be found.
    """
    folder = Path(resolve(path, key)).expanduser()
    if path and folder.is_dir():
        if (folder / "run.json").is_file() and (folder / "model").is_dir():
            folder = folder / "model"
        if is_adapter(folder):
            return _on_base(folder, key)
        if not (folder / "config.json").is_file():
            raise InputError(key, path, f"{_ALLOWED} (this folder has no config.json)")
        return Checkpoint(str(folder), None)
    if path != path.strip() or path.startswith((".", "/", "~")) or folder.exists() or path.count("/") > 1 or not path:
        raise InputError(key, path, f"{_ALLOWED} (no such folder)")
    return _on_hub(path, revision, key)


def fingerprint(path: str, revision: str | None = None) -> str:
    """Compute a model's identity, wherever it lies: a hash of configuration, tokenizer and weights, or id@commit.

    An adapter's fingerprint covers its base as well. The commit is the cached one where the Hub cannot be reached;
    InputError where there is none.
    """
    checkpoint = locate(path, revision)
    base = _hash_folder(Path(checkpoint.base)) if checkpoint.is_local else _hub_commit(checkpoint)
    if checkpoint.adapter is None:
        return base
    return hashlib.sha256(f"{base}+{_hash_folder(checkpoint.adapter)}".encode()).hexdigest()


def hub_commit(path: str, revision: str | None = None) -> str | None:
    """Return id@commit of the weights below `path`, as `fingerprint` finds it; None for local weights."""
    checkpoint = locate(path, revision)
    return None if checkpoint.is_local else _hub_commit(checkpoint)


def head_file(checkpoint: Checkpoint) -> Path | None:
    """The scalar head stored with a reward model; None where there is none, which makes the checkpoint another's."""
    place = checkpoint.adapter or Path(checkpoint.base)
    if not place.is_dir():
        with suppress(HfHubHTTPError, EntryNotFoundError, OSError, ValueError):  # what loading the model will report
            return Path(hf_hub_download(checkpoint.base, HEAD, revision=checkpoint.revision))
        return None
    return place / HEAD if (place / HEAD).is_file() else None


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter rather than a whole model."""
    return (folder / "adapter_config.json").is_file()


def refuse_pickles(checkpoint: Checkpoint, key: str) -> None:
    """Raise InputError where a local checkpoint has no weights in safetensors."""
    folder = Path(checkpoint.base)
    if not checkpoint.is_local or any(folder.glob("*.safetensors")):
        return
    pickled = sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
    given = f"{folder} with {pickled[0]}" if pickled else str(folder)
    raise InputError(key, given, "weights in safetensors (pickled ones can run code while they are loaded)")


@contextmanager
def one_line(key: str, path: str) -> Iterator[None]:
    """Convert what libraries raise about a checkpoint to an InputError that names `key`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, AttributeError, SafetensorError) as error:
        why = reason(error)
        if "custom code" in why or "trust_remote_code" in str(error):
            raise InputError("model.trust_remote_code", False, "true, as this model runs code of its own") from error
        if "attn_implementation" in str(error) or "flash" in why.lower():
            key = "model.attn_implementation"
        elif "does not appear to have a file named model.safetensors" in why:
            why = "no weights in safetensors; pickled ones are refused"
        raise InputError(key, path, f"a model that loads ({why})") from error


def _on_base(folder: Path, key: str) -> Checkpoint:
    if not (folder / "adapter_model.safetensors").is_file():
        raise InputError(key, str(folder), "an adapter with adapter_model.safetensors (pickled weights are refused)")
    settings = read_object(folder / "adapter_config.json", "as PEFT writes it")
    base = settings.get("base_model_name_or_path")
    if not base:
        raise InputError(key, str(folder), "an adapter whose adapter_config.json names base_model_name_or_path")
    beside = folder / base
    base = str(beside) if beside.is_dir() else base
    below = locate(base, settings.get("revision"), key=f"{key} (the adapter's base)")
    if below.adapter is not None:
        raise InputError(key, str(folder), "an adapter on a whole model, not on another adapter")
    return Checkpoint(below.base, below.revision, folder)


def _on_hub(name: str, revision: str | None, key: str) -> Checkpoint:
    cached_where_unreachable()
    try:
        try:
            settings = Path(hf_hub_download(name, "adapter_config.json", revision=revision))
        except EntryNotFoundError:  # no adapter, or unreachable: loading the model reports that
            return Checkpoint(name, revision)
        with suppress(RemoteEntryNotFoundError):  # an adapter without safetensors is refused in _on_base
            hf_hub_download(name, "adapter_model.safetensors", revision=revision)
        with suppress(EntryNotFoundError):  # only a reward model of align's has one; unreachable, none that is cached
            hf_hub_download(name, HEAD, revision=revision)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise InputError(key, name, f"{_ALLOWED} ({reason(error)})") from error
    return _on_base(settings.parent, key)


def _hash_folder(folder: Path) -> str:
    names = {file for pattern in (*_IDENTITY, *_TOKENIZER) for file in folder.glob(pattern) if file.is_file()}
    digest = hashlib.sha256()
    for file in sorted(names):
        digest.update(f"{file.name} {content_hash(file)}\n".encode())
    return digest.hexdigest()


def _hub_commit(checkpoint: Checkpoint) -> str:
    try:
        config = Path(hf_hub_download(checkpoint.base, "config.json", revision=checkpoint.revision))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError("model.path", checkpoint.base, f"{_ALLOWED} ({reason(error)})") from error
    return f"{checkpoint.base}@{config.parent.name}"  # .../snapshots/<commit>/config.json
