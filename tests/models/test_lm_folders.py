"""Language models that come as folders: the right architecture loads, everything else is refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_architectures as architectures
import pytest
import torch

from lethe.core.modules import state_fingerprint
from lethe.core.sequences import encode_prompts
from lethe.data.context import Context
from lethe.errors import ModelError, RequestError
from lethe.models.lm import decoder, greedy
from lethe.models.lm import open as lm
from lethe.models.lm.folder import read_folder, recomputing
from lethe.models.opened import Sections

BERT = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 64}


def other(kind: str, folder: Path) -> Path:
    """A folder that holds something else than a whole causal language model."""
    import transformers as t

    words = architectures.tokenizer()
    words.save_pretrained(folder)
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    llama = t.LlamaConfig(vocab_size=len(words), **architectures.GROUPED, **special)
    gpt2 = t.GPT2Config(vocab_size=len(words), **architectures.ARCHITECTURES["gpt2"], **special)
    made: dict[str, Any] = {
        "base": lambda: t.LlamaModel(llama),
        "classifier": lambda: t.LlamaForSequenceClassification(llama),
        "tied classifier": lambda: t.GPT2ForSequenceClassification(gpt2),
        "bidirectional": lambda: t.BertForMaskedLM(t.BertConfig(**BERT)),
        "encoder-decoder": lambda: t.T5ForConditionalGeneration(t.T5Config(
            vocab_size=300, d_model=32, d_kv=16, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0)),
        "picture": lambda: t.ViTForImageClassification(t.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=28, patch_size=14)),
    }
    if kind in made:
        made[kind]().save_pretrained(folder)
        return folder
    t.LlamaForCausalLM(llama).save_pretrained(folder, max_shard_size="50KB" if kind == "shard" else "1GB")
    config = json.loads((folder / "config.json").read_text())
    changes: dict[str, dict[str, Any]] = {
        "remote code": {"model_type": "strange", "auto_map": {"AutoModelForCausalLM": "modeling_strange.Strange"}},
        "unknown": {"model_type": "strange"},
        "quantised": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    }
    if kind == "shard":
        sorted(folder.glob("model-*.safetensors"))[1].unlink()
    elif kind == "not utf-8":
        (folder / "config.json").write_bytes(b"\xff\xfe" + json.dumps(config).encode("utf-16-le"))
    elif kind == "cut off":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
    else:
        (folder / "config.json").write_text(json.dumps({**config, **changes[kind]}))
    return folder


@pytest.mark.parametrize(("kind", "said"), [
    ("base", r"lacks 1 of the weights of a LlamaForCausalLM \(lm_head\.weight\).*drawn at random.*saved as LlamaModel"),
    ("classifier", r"lm_head\.weight.*LlamaForSequenceClassification"),
    ("tied classifier", r"GPT2ForSequenceClassification, whose score\.weight"),
    ("bidirectional", "reads a text in both directions"),
    ("encoder-decoder", "T5ForConditionalGeneration, an encoder–decoder"),
    ("picture", "is a vit model"),
    ("remote code", r"brings code of its own \(LlamaForCausalLM, model_type 'strange'\)"),
    ("unknown", "'strange', which this release of transformers does not know"),
    ("quantised", r"quantised with gptq.*Install the package"),
    ("shard", r"lacks 1 of the \d+ files of its weights \(model-00002"),
    ("not utf-8", r"config\.json is not UTF-8.*UTF-16"),
    ("cut off", r"model\.safetensors cannot be read as safetensors"),
])
def test_what_is_no_causal_language_model_is_refused(kind: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        lm.load_folder(other(kind, tmp_path))


@pytest.mark.parametrize(("content", "said"), [
    (b"\xff\xfe{\x00", r"config\.json is not UTF-8"), (b"{", r"config\.json is not JSON"),
    (b"[1]", r"config\.json holds no JSON")])
def test_a_damaged_configuration_is_no_fault_of_the_tokenizer(content: bytes, said: str, tmp_path: Path) -> None:
    """Its reader stumbles over the same file, and a request reads the tokenizer first."""
    architectures.tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=said):
        lm.load_tokenizer(tmp_path)


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "mamba", pytest.param(
    "llama4", marks=architectures.LLAMA4_BROKEN)])
def test_attention_is_what_the_architecture_has(architecture: str, tmp_path: Path) -> None:
    """Gemma 2 and Mamba have no SDPA; the text part of a Gemma 3 or Llama 4 that also reads pictures is what answers."""
    task = lm.language_model(architectures.saved(architecture, tmp_path / "in"), forget=architectures.people(4))
    assert task.layer_count == 3 and task.hidden_width == 32
    batch = task.forget.batch(range(4))
    hidden = task.hidden_states(task.original, batch, 1)
    whole = task.original(input_ids=batch.ids, output_hidden_states=True)
    torch.testing.assert_close(hidden, whole.hidden_states[1 if architecture == "mamba" else 2])   # Mamba tells no embedding
    task.save_model(task.original, tmp_path / "out")   # whole, with what reads pictures
    again = lm.load_folder(tmp_path / "out")
    assert type(again) is type(task.original) and state_fingerprint(again) == state_fingerprint(task.original)


def test_weights_leave_in_the_type_in_which_they_came(tmp_path: Path) -> None:
    came = read_folder(architectures.saved("llama", tmp_path / "in", torch.bfloat16))
    assert {p.dtype for p in came.model.parameters()} == {torch.float32} and set(came.types.values()) == {torch.bfloat16}
    task = lm.language_model(tmp_path / "in", forget=architectures.people(4))
    moved = task.copy_of_original()
    with torch.no_grad():
        for weight in moved.parameters():
            weight.mul_(1.001)
    audited = task.deliverable(moved)
    task.save_model(audited, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert {p.dtype for p in audited.parameters()} == {torch.float32}   # in memory nothing changed
    own = lm.load_folder(tmp_path / "out", dtype="own")
    assert {p.dtype for p in own.parameters()} == {torch.bfloat16}
    again = lm.load_folder(tmp_path / "out")
    for name, weight in again.named_parameters():
        assert torch.equal(weight, audited.get_parameter(name))   # what is delivered is what was audited


@pytest.mark.parametrize("architecture", ["llama", "rwkv"])
def test_greedy_is_greedy_whatever_the_folder_proposes(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling, beams and penalties of generation_config.json do not count, nor which answers are continued together.
    RWKV's cache mixes up a batch, so it goes without."""
    monkeypatch.setattr(greedy, "STRIDE", 3)
    monkeypatch.setattr(greedy, "TOKENS", 60)
    task = lm.language_model(architectures.saved(architecture, tmp_path), forget=architectures.people(4))
    assert task.original.generation_config.num_beams == 3
    prompts = ["What?", *[str(row["prompt"]) for row in architectures.people(4)]]
    tokens = encode_prompts(prompts, task.tokenizer, task.form)
    want = [architectures.argmax(task.original, ids, 8, [2]) for ids in tokens]
    assert task.generate(task.original, prompts, 8) == [
        text.strip() for text in task.tokenizer.batch_decode(want, skip_special_tokens=True)]
    assert task.original.generation_config.num_beams == 3   # and it leaves with the model as it came
    task.save_model(task.original, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["repetition_penalty"] == 1.9


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba"])
def test_recomputed_activations_change_no_number(architecture: str, tmp_path: Path) -> None:
    """Nor where a method reads or changes the states between blocks, or ends the pass early; copies recompute, too."""
    folder = architectures.saved(architecture, tmp_path)
    (tmp_path / "forget.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in architectures.people(6)))

    def passed(checkpointing: bool) -> tuple[list[torch.Tensor], int]:
        torch.manual_seed(0)   # of dropout, which is drawn again as it was
        source = {"folder": str(folder), "checkpointing": checkpointing}
        opened = lm.open_request.open(Sections(source, {"forget": str(tmp_path / "forget.jsonl")}, None), Context())
        task = opened.task(opened.model, opened.splits, "x")
        model, batch, kept = task.copy_of_original().train().requires_grad_(True), task.forget.batch(range(6)), []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.nbytes), x)[1], lambda x: x):
            plain = task.nll(model, batch).mean()
        early = task.hidden_states(model, batch, 1).square().mean()
        with decoder.rewriting(model, lambda layer, h: h * 1.5 if layer == 1 else h):
            changed = task.nll(model, batch).mean()
            changed.backward()
        found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        (plain + early).backward()
        return [*found, *(p.grad for p in model.parameters() if p.grad is not None)], sum(kept)

    (before, much), (after, little) = passed(False), passed(True)
    assert len(before) == len(after) and little < 0.6 * much
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_model_that_cannot_recompute_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lm.load_folder(architectures.saved("llama", tmp_path))
    monkeypatch.setattr(type(model), "supports_gradient_checkpointing", False)
    with pytest.raises(RequestError, match=r"checkpointing is set, but a LlamaForCausalLM cannot"):
        recomputing(model)


@pytest.mark.parametrize(("architecture", "own"), [
    ("cohere", {}), ("granite", {"logits_scaling": 4.0}), ("gemma2", {"final_logit_softcapping": 0.1})])
def test_reading_out_the_last_states_gives_the_logits(architecture: str, own: dict[str, float], tmp_path: Path) -> None:
    """What stands behind the head counts: of Cohere they were off by 1.2, as the lens and the patching of states saw them."""
    task = lm.language_model(architectures.saved(architecture, tmp_path), forget=architectures.people(4))
    for key, value in own.items():
        setattr(task.original.config, key, value)
    batch = task.forget.batch([0, 1])
    keep = torch.zeros_like(batch.ids, dtype=torch.bool)
    keep[:, 1:6] = True
    with torch.no_grad():
        states, want = decoder.hidden_all(task.original, batch.ids, keep)[-1], decoder.logits_at(task.original, batch.ids, keep)
        torch.testing.assert_close(decoder.read_out(task.original, states), want, rtol=0, atol=1e-5)
