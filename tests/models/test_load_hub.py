"""Models from the Hub: the real loading code against a Hub of the tests' own, in good days and bad ones."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM

from align.config import ModelConfig, RewardModelSource
from align.engine.roles import build_roles
from align.errors import InputError
from align.models.load import load_causal_lm, load_chat_tokenizer, load_sequence_classifier
from align.models.locate import fingerprint
from align.run.reward_models import ensure_reward_model
from tests import tiny
from tests.algorithms import runs
from tests.hub import TOKEN, Hub
from tests.run.stages import stage

CPU = {"dtype": torch.float32, "device": tiny.CPU}
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def causal(name: str, **settings):
    return load_causal_lm(ModelConfig(path=name, **settings), **CPU)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def transferred(hub: Hub) -> list[str]:
    return [r.path for r in hub.requests if r.method == "GET" and r.path.startswith(("/store", "/api/resolve-cache"))]


def test_a_public_model_is_the_stored_one_and_is_fetched_once(hub):
    commit = hub.add("good/public", tiny.folder())
    torch.testing.assert_close(logits(causal("good/public")), logits(tiny.causal()))
    chat = load_chat_tokenizer(ModelConfig(path="good/public"))
    assert (chat.end_ids, chat.pad_id) == (tiny.chat().end_ids, tiny.chat().pad_id)
    assert chat.encode_reply(tiny.ASKED, "abc") == tiny.said("abc")
    assert fingerprint("good/public") == f"good/public@{commit}"
    assert any(path.startswith("/store") for path in transferred(hub))
    hub.requests.clear()
    causal("good/public")
    assert transferred(hub) == []
    assert not any("discussions" in r.path for r in hub.requests)  # nobody is asked to convert anything


def test_revisions(hub):
    old = hub.add("good/versions", tiny.folder(seed=1), revision="v1")
    hub.add("good/versions", tiny.folder(seed=0))
    for revision, seed in (("v1", 1), (old, 1), (None, 0), ("main", 0)):
        torch.testing.assert_close(
            logits(causal("good/versions", revision=revision)), logits(tiny.causal("llama", seed))
        )
    assert fingerprint("good/versions", "v1") == f"good/versions@{old}"
    with pytest.raises(InputError, match=r"^model\.path: given 'good/versions'.*no such revision") as caught:
        causal("good/versions", revision="v2")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["gated", "private"])
def test_a_restricted_model_takes_a_token_and_nobody_hears_it(hub, kind, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    name = f"closed/{kind}"
    hub.add(name, tiny.folder(), **{kind: True})
    told = {"gated": "access to it is restricted: accept its terms", "private": "no such repository, or it is private"}
    for call in (lambda: causal(name), lambda: load_chat_tokenizer(ModelConfig(path=name)), lambda: fingerprint(name)):
        with pytest.raises(InputError, match=rf"^model\.path: given '{name}'.*{told[kind]}"):
            call()
    monkeypatch.setenv("HF_TOKEN", "hf_" + "AnotherOne")
    with pytest.raises(InputError, match=rf"^model\.path: given '{name}'") as caught:
        causal(name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    torch.testing.assert_close(logits(causal(name)), logits(tiny.causal()))
    assert any(r.authorization == f"Bearer {TOKEN}" for r in hub.requests)
    assert all(r.authorization is None for r in hub.requests if r.path.startswith("/store"))  # it is another host
    said = caplog.text + "".join(capfd.readouterr()) + str(caught.value)
    assert TOKEN not in said and "AnotherOne" not in said


def test_what_the_hub_does_not_have(hub):
    for call in (
        lambda: causal("no/such"),
        lambda: load_chat_tokenizer(ModelConfig(path="no/such")),
        lambda: fingerprint("no/such"),
        lambda: load_sequence_classifier("no/such", **CPU),
    ):
        with pytest.raises(InputError, match=r"path: given 'no/such'.*no such repository, or it is private") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_without_a_network_the_cache_serves_at_once(hub, capfd):
    hub.add("good/cached", tiny.folder())
    before = (
        fingerprint("good/cached"),
        logits(causal("good/cached")),
        load_chat_tokenizer(ModelConfig(path="good/cached")),
    )
    with hub.down():
        assert fingerprint("good/cached") == before[0]
        torch.testing.assert_close(logits(causal("good/cached")), before[1])
        assert load_chat_tokenizer(ModelConfig(path="good/cached")).end_ids == before[2].end_ids
        for call in (causal, lambda name: load_chat_tokenizer(ModelConfig(path=name)), fingerprint):
            with pytest.raises(InputError, match=r"'good/other'.*not in the cache, and the Hub cannot be reached"):
                call("good/other")
    assert capfd.readouterr().err.count(f"{hub.endpoint} cannot be reached: looking into the cache only\n") == 1
    hub.add("good/other", tiny.folder(seed=1))  # it is up again, and so are we
    torch.testing.assert_close(logits(causal("good/other")), logits(tiny.causal("llama", 1)))


def test_hf_hub_offline_is_obeyed(hub, monkeypatch):
    hub.add("good/offline", tiny.folder())
    causal("good/offline")
    load_chat_tokenizer(ModelConfig(path="good/offline"))
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # which it sets when it is imported
    causal("good/offline")
    load_chat_tokenizer(ModelConfig(path="good/offline"))
    with pytest.raises(InputError, match=r"not in the cache, and HF_HUB_OFFLINE forbids to look further"):
        causal("good/not_here")
    assert hub.requests == []


@pytest.mark.parametrize("index", [False, True])
def test_pickled_weights_are_refused_in_one_line(hub, index):
    content = files(tiny.folder())
    pickle = content.pop("model.safetensors")
    names = ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"] if index else ["pytorch_model.bin"]
    name = f"bad/pickle{int(index)}"
    hub.add(name, content | dict.fromkeys(names, pickle))
    with pytest.raises(InputError, match=rf"^model\.path: given '{name}'.*pickled ones are refused") as caught:
        causal(name)
    assert "\n" not in str(caught.value)
    assert not any(path.startswith("/store") for path in transferred(hub))


CODE = (
    "from pathlib import Path\n"
    "from transformers import LlamaConfig, LlamaForCausalLM\n"
    "Path({mark!r}).touch()\n"
    "class C(LlamaConfig):\n    model_type = 'homemade'\n"
    "class M(LlamaForCausalLM):\n    config_class = C\n"
)


def test_remote_code_runs_only_where_it_is_trusted(hub, tmp_path):
    content = files(tiny.folder())
    config = json.loads(content["config.json"])
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    code = CODE.format(mark=str(tmp_path / "ran")).encode()
    hub.add("bad/code", content | {"config.json": json.dumps(config).encode(), "code.py": code})
    for call in (causal, lambda name: load_chat_tokenizer(ModelConfig(path=name))):
        with pytest.raises(InputError, match=r"^model\.trust_remote_code: given False; allowed: true"):
            call("bad/code")
    assert not (tmp_path / "ran").exists()
    model = causal("bad/code", trust_remote_code=True)
    assert type(model).__name__ == "M" and (tmp_path / "ran").exists()
    torch.testing.assert_close(logits(model), logits(tiny.causal()))


def lora(base: str, target: Path) -> torch.Tensor:
    """Save an adapter that changes the tiny model visibly, with `base` as its base's name; returns its logits."""
    torch.manual_seed(1)
    plain = AutoModelForCausalLM.from_pretrained(tiny.folder())
    model = get_peft_model(plain, LoraConfig(r=2, target_modules="all-linear", task_type=TaskType.CAUSAL_LM))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3)
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(target)
    return logits(model.eval())


def test_an_adapter_is_put_on_its_base_of_the_hub(hub, tmp_path):
    hub.add("good/base", tiny.folder())
    expected = lora("good/base", tmp_path / "adapter")
    content = files(tmp_path / "adapter")
    hub.add("good/adapter", content)
    torch.testing.assert_close(logits(causal("good/adapter")), expected, atol=1e-5, rtol=1e-5)
    assert load_chat_tokenizer(ModelConfig(path="good/adapter")).end_ids == tiny.chat().end_ids
    assert fingerprint("good/adapter") != fingerprint("good/base")
    with hub.down():
        torch.testing.assert_close(logits(causal("good/adapter")), expected, atol=1e-5, rtol=1e-5)
    content["adapter_model.bin"] = content.pop("adapter_model.safetensors")
    hub.add("bad/adapter", content)
    with pytest.raises(InputError, match=r"^model\.path.*adapter_model\.safetensors.*refused") as caught:
        causal("bad/adapter")
    assert "\n" not in str(caught.value)


def test_an_adapter_whose_base_is_not_there(hub, tmp_path):
    lora("lost/base", tmp_path / "adapter")
    hub.add("good/orphan", files(tmp_path / "adapter"))
    with pytest.raises(InputError, match=r"^model\.path \(the adapter's base\): given 'lost/base'"):
        causal("good/orphan")


def test_a_reward_model_of_the_hub_scores_as_the_stored_one(hub, tmp_path):
    hub.add("good/reward", tiny.reward_folder())
    local = runs.config(tiny.config().method, tmp_path)
    settings = RewardModelSource(path="good/reward")
    distant = replace(local, reward=replace(local.reward, source=settings))
    place = ensure_reward_model(stage(None, distant, [], []), settings)
    scorers = [
        build_roles(config, **CPU, reward=folder, critic_init=None).reward
        for config, folder in ((local, tiny.reward_folder()), (distant, place))
    ]
    first, second = (scorer(IDS, torch.ones_like(IDS)) for scorer in scorers)
    torch.testing.assert_close(first, second)
    hub.add("bad/reward", tiny.folder())
    with pytest.raises(InputError, match=r"^reward\.source\.path.*LlamaForCausalLM.*one output"):
        load_sequence_classifier("bad/reward", **CPU)
