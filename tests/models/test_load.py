"""Loading what users have: folders, run folders, adapters, quantized bases; refusing what is unsafe or unfit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from align.config import ModelConfig, QuantizationConfig
from align.errors import InputError
from align.models.load import load_causal_lm, load_chat_tokenizer, load_sequence_classifier, load_tokenizer
from align.models.locate import fingerprint

CPU = {"dtype": torch.float32, "device": torch.device("cpu")}
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def causal(path: Path | str, **options):
    keys = ("attn_implementation", "chat_template", "trust_remote_code", "revision")
    settings = {k: options.pop(k) for k in keys if k in options}
    return load_causal_lm(ModelConfig(path=str(path), **settings), **(CPU | options))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


@pytest.mark.parametrize("shape", ["llama", "qwen2", "gpt2"])
def test_causal_lm_is_the_stored_one(make_model, shape):
    folder = make_model(shape)
    model = causal(folder)
    assert not model.training
    torch.testing.assert_close(logits(model), logits(AutoModelForCausalLM.from_pretrained(folder).eval()))


@pytest.mark.parametrize("shape", ["llama", "qwen2", "gpt2"])
def test_no_dropout_even_in_training_mode(make_model, shape):
    folder = make_model(shape)
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").train()
    assert not torch.equal(logits(plain), logits(plain))  # the stored model does drop out
    model = causal(folder, attn_implementation="eager").train()
    assert torch.equal(logits(model), logits(model))
    assert torch.equal(logits(model), logits(model.eval()))


def test_dtype_and_attention_implementation(make_model):
    model = causal(make_model(), dtype=torch.bfloat16, attn_implementation="eager")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"


def test_run_folder_stands_for_its_model(make_model, tmp_path):
    run = tmp_path / "run"
    folder = make_model(name="run/model")
    (run / "run.json").write_text("{}")
    torch.testing.assert_close(logits(causal(run)), logits(causal(folder)))
    assert load_chat_tokenizer(ModelConfig(path=str(run))).end_id == 2
    assert fingerprint(str(run)) == fingerprint(str(folder))


def adapter(folder: Path, target: Path, task: TaskType = TaskType.CAUSAL_LM) -> PeftModel:
    """Save a LoRA adapter that changes the model visibly."""
    auto = AutoModelForCausalLM if task is TaskType.CAUSAL_LM else AutoModelForSequenceClassification
    base = auto.from_pretrained(folder, **({} if task is TaskType.CAUSAL_LM else {"num_labels": 1, "pad_token_id": 3}))
    model = get_peft_model(base, LoraConfig(r=2, lora_dropout=0.5, target_modules="all-linear", task_type=task))
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(target)
    return model.eval()


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_adapter_is_put_on_its_base(make_model, tmp_path, shape):
    folder = make_model(shape)
    expected = logits(adapter(folder, tmp_path / "adapter"))
    assert (expected - logits(causal(folder))).abs().max() > 0.1
    model = causal(tmp_path / "adapter").train()
    assert not isinstance(model, PeftModel)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    assert load_tokenizer(ModelConfig(path=str(tmp_path / "adapter"))).eos_token_id == 0


def test_fingerprint_follows_content_not_place(make_model, tmp_path):
    first, second = make_model(name="first"), make_model(name="second")
    assert fingerprint(str(first)) == fingerprint(str(second))
    weights = load_file(second / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, second / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(str(first)) != fingerprint(str(second))


def test_fingerprint_of_an_adapter_covers_its_base(make_model, tmp_path):
    folder = make_model()
    adapter(folder, tmp_path / "adapter")
    before = fingerprint(str(tmp_path / "adapter"))
    assert before != fingerprint(str(folder))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(str(tmp_path / "adapter")) != before


@pytest.mark.parametrize(("name", "error"), [("int8", 0.02), ("nf4", 0.3)])
def test_quantized_base(make_model, name, error):
    folder = make_model(hidden_size=64, intermediate_size=128)
    model = causal(folder, quantization=QuantizationConfig(name=name))
    kind = {"int8": "Linear8bitLt", "nf4": "Linear4bit"}[name]
    assert sum(type(m).__name__ == kind for m in model.modules()) == 14  # every linear layer but the head
    whole = causal(folder)
    assert model.get_memory_footprint() < whole.get_memory_footprint()
    gap = (logits(model) - logits(whole)).abs().mean() / logits(whole).abs().mean()
    assert 0 < gap < error


def test_gradients_pass_through_a_4_bit_base_after_a_pass_without_them(make_model, tmp_path):
    """On CPUs with AVX512-BF16 bitsandbytes would repack the weights then, for a product that gradients do not pass."""
    folder = make_model(hidden_size=64, intermediate_size=128)
    model = causal(folder, quantization=QuantizationConfig(name="nf4"), dtype=torch.bfloat16)
    model.requires_grad_(False)

    def gradient() -> torch.Tensor:
        embedded = model.get_input_embeddings()(IDS).detach().requires_grad_(True)
        model(inputs_embeds=embedded, attention_mask=torch.ones_like(IDS)).logits.float().logsumexp(-1).sum().backward()
        return embedded.grad

    fresh = gradient()
    logits(model)
    torch.testing.assert_close(gradient(), fresh, rtol=0, atol=0)
    model.save_pretrained(tmp_path / "stored")
    model = causal(tmp_path / "stored", dtype=torch.bfloat16)  # quantized already, by whoever stored it
    logits(model)
    assert any(type(m).__name__ == "Linear4bit" for m in model.modules())
    torch.testing.assert_close(gradient(), fresh, rtol=1e-2, atol=1e-2 * float(fresh.abs().max()))


def test_adapter_under_quantization(make_model, tmp_path):
    folder = make_model(hidden_size=64, intermediate_size=128)
    expected = logits(adapter(folder, tmp_path / "adapter"))
    model = causal(tmp_path / "adapter", quantization=QuantizationConfig(name="int8"))
    assert (logits(model) - expected).abs().mean() / expected.abs().mean() < 0.1


def classifier(path: Path | str, **options):
    return load_sequence_classifier(str(path), **(CPU | options))


@pytest.mark.parametrize("shape", ["llama", "qwen2", "gpt2"])
def test_sequence_classifier(make_model, shape):
    folder = make_model(shape, head="classifier", num_labels=1, pad_token_id=3)
    model = classifier(folder)
    expected = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    torch.testing.assert_close(logits(model), logits(expected))
    assert logits(model).shape == (1, 1)


def test_sequence_classifier_without_pad_gets_the_chat_tokenizers(make_model):
    folder = make_model(head="classifier", num_labels=1, pad_token_id=None)
    model = classifier(folder)
    assert model.config.pad_token_id == 3  # <|pad|>
    assert classifier(folder, pad_id=1).config.pad_token_id == 1
    padded = torch.tensor([[5, 6, 7, 3, 3]])
    with torch.no_grad():
        short, long = model(input_ids=padded[:, :3]).logits, model(input_ids=padded).logits
    torch.testing.assert_close(short, long)


def test_sequence_classifier_adapter_keeps_its_head(make_model, tmp_path):
    folder = make_model()
    expected = logits(adapter(folder, tmp_path / "adapter", TaskType.SEQ_CLS))
    torch.testing.assert_close(logits(classifier(tmp_path / "adapter")), expected, atol=1e-5, rtol=1e-5)


def test_policy_adapter_is_no_reward_model(make_model, tmp_path):
    adapter(make_model(), tmp_path / "adapter")
    with pytest.raises(InputError, match=r"reward\.source\.path.*stored with its head"):
        classifier(tmp_path / "adapter")


def test_causal_lm_is_no_reward_model(make_model):
    with pytest.raises(InputError, match=r"reward\.source\.path.*LlamaForCausalLM.*one output"):
        classifier(make_model())


def test_reward_model_with_two_outputs(make_model):
    with pytest.raises(InputError, match=r"num_labels=2.*num_labels=1"):
        classifier(make_model(head="classifier", num_labels=2, pad_token_id=3))


def test_reward_model_without_its_head(make_model):
    folder = make_model(head="classifier", num_labels=1, pad_token_id=3)
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"reward\.source\.path.*score\.weight"):
        classifier(folder)


def test_missing_weights_are_not_made_up(make_model):
    folder = make_model()
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model\.path.*layers\.1\.mlp\.up_proj"):
        causal(folder)


SHARDED = ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"]


@pytest.mark.parametrize("names", [["pytorch_model.bin"], SHARDED])
def test_pickled_weights_are_refused(make_model, names):
    folder = make_model()
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for name in names:
        torch.save(weights, folder / name)
    with pytest.raises(InputError, match=r"^model\.path.*weights in safetensors \(pickled ones can run code"):
        causal(folder)
    save_file({"x": torch.ones(1)}, folder / "extra.safetensors")  # of something else
    with pytest.raises(InputError, match=r"^model\.path"):
        causal(folder)


def test_pickled_adapter_is_refused(make_model, tmp_path):
    adapter(make_model(), tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(InputError, match=r"model\.path.*adapter_model\.safetensors.*refused"):
        causal(tmp_path / "adapter")


def test_sharded_safetensors(make_model, tmp_path):
    folder = make_model()
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="10KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    torch.testing.assert_close(logits(causal(tmp_path / "sharded")), logits(model.eval()))


def test_remote_code_is_refused_and_not_run(make_model, tmp_path):
    folder = make_model()
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match=r"model\.trust_remote_code: given False"):
        causal(folder)
    assert not (tmp_path / "ran").exists()


def test_remote_code_runs_when_trusted(make_model):
    folder = make_model()
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(
        "import torch\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class C(LlamaConfig):\n    model_type = 'homemade'\n"
        "class M(LlamaForCausalLM):\n"
        "    config_class = C\n"
        "    def __init__(self, config):\n"
        "        super().__init__(config)\n"
        "        self.drop = torch.nn.Dropout(0.5)\n"
    )
    model = causal(folder, trust_remote_code=True)
    assert type(model).__name__ == "M"
    assert model.drop.p == 0.0  # one that no configuration key turns off


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/no/such/folder", "no such folder"),
        ("./nothing", "no such folder"),
        ("a/b/c", "no such folder"),
        ("", "no such folder"),
        ("align://pocket/nothing", "align://pocket/nothing"),
    ],
)
def test_path_that_names_nothing(path, told):
    with pytest.raises(InputError, match=rf"^model\.path.*{told}") as caught:
        causal(path)
    assert "\n" not in str(caught.value)


def test_folder_without_a_model(tmp_path):
    with pytest.raises(InputError, match=r"model\.path.*no config\.json"):
        causal(tmp_path)


@pytest.mark.parametrize("broken", ["{", "{}", '{"model_type": "nonsense"}'])
def test_broken_config(make_model, broken):
    folder = make_model()
    (folder / "config.json").write_text(broken)
    with pytest.raises(InputError, match=r"^model\.path") as caught:
        causal(folder)
    assert "\n" not in str(caught.value)


def test_truncated_weights(make_model):
    folder = make_model()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"^model\.path"):
        causal(folder)


def test_unknown_attention_implementation(make_model):
    with pytest.raises(InputError, match=r"^model\.attn_implementation"):
        causal(make_model(), attn_implementation="nonsense")


def test_tokenizer_larger_than_the_model(make_model):
    folder = make_model(vocab_size=300)
    with pytest.raises(InputError, match=r"^model\.path.*300 embeddings"):
        load_chat_tokenizer(ModelConfig(path=str(folder)))


def test_chat_tokenizer_reads_end_ids_of_config_and_generation_config(make_model):
    folder = make_model(eos_token_id=7)
    (folder / "generation_config.json").unlink(missing_ok=True)
    assert load_chat_tokenizer(ModelConfig(path=str(folder))).end_ids == (0, 2, 7)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 9]}')
    assert load_chat_tokenizer(ModelConfig(path=str(folder))).end_ids == (0, 2, 9)
