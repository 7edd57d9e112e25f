"""Language models in GGUF files: audited beside the folder from before where the reader is there, else refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from lethe.core.task import Task
from lethe.errors import LetheError, ModelError, RequestError
from lethe.models.lm.gguf_file import load_gguf
from lethe.work.files import Files, _recognised, audit_files

NAMES = {   # of a Llama in transformers -> in GGUF
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "model.layers": "blk",
}


def reader() -> Any:
    return pytest.importorskip("gguf", reason="the package gguf is not installed: pip install 'lethe-unlearning[gguf]'")


def written(model: Any, tokenizer: Any, path: Path, without: str = "", kind: str = "") -> Path:
    """The Llama as llama.cpp has it: names of its own, rows of queries and keys in its order of the rotation.

    kind  what the package's own quantiser makes of matrices, e.g. Q8_0
    """
    gguf, shape = reader(), model.config
    file = gguf.GGUFWriter(str(path), "llama")
    for name, value in {"context_length": shape.max_position_embeddings, "embedding_length": shape.hidden_size,
                        "block_count": shape.num_hidden_layers, "feed_forward_length": shape.intermediate_size,
                        "head_count": shape.num_attention_heads, "head_count_kv": shape.num_key_value_heads,
                        "vocab_size": shape.vocab_size}.items():
        getattr(file, f"add_{name}")(value)
    file.add_layer_norm_rms_eps(shape.rms_norm_eps)
    file.add_rope_freq_base(float(shape.rope_parameters["rope_theta"]))
    file.add_token_list(tokenizer.convert_ids_to_tokens(range(shape.vocab_size)))
    for name, value in model.state_dict().items():
        own, rows = name, value.float()
        for theirs, ours in NAMES.items():
            own = own.replace(theirs, ours)
        if any(kind in own for kind in ("attn_q", "attn_k")):
            heads = shape.num_attention_heads if "attn_q" in own else shape.num_key_value_heads
            rows = rows.view(heads, 2, -1, rows.shape[1]).transpose(1, 2).reshape(rows.shape)
        if own != without:
            as_kind = gguf.GGMLQuantizationType[kind] if kind and rows.dim() > 1 else None
            data = rows.contiguous().numpy()
            file.add_tensor(own, data if as_kind is None else gguf.quants.quantize(data, as_kind), raw_dtype=as_kind)
    for step in (file.write_header_to_file, file.write_kv_data_to_file, file.write_tensors_to_file, file.close):
        step()
    return path


def placed(task: Task, place: Path) -> dict[str, str]:
    """The folder from before and the splits, as an auditor holds them."""
    (place / "before").mkdir()
    task.save_model(task.copy_of_original(), place / "before")
    for name in ("forget", "retain"):
        split = task.splits[name]
        rows = [json.dumps({"prompt": p, "answer": a}) for p, a in zip(split.meta["prompt"], split.meta["answer"], strict=True)]
        (place / f"{name}.jsonl").write_text("\n".join(rows))
    return {"original": str(place / "before"), **{name: str(place / f"{name}.jsonl") for name in ("forget", "retain")}}


def test_a_gguf_file_is_audited_as_the_model_that_it_holds(tmp_path: Path) -> None:
    task = tiny.lm()
    other = task.build(3)
    file, again = (written(model, task.tokenizer, tmp_path / name) for model, name in (
        (other, "other.gguf"), (task.original, "before.gguf")))
    batch = task.forget.batch(range(4))
    torch.testing.assert_close(task.outputs(load_gguf(file), batch), task.outputs(other, batch), atol=1e-4, rtol=1e-4)
    given = placed(task, tmp_path)
    found = audit_files(Files(unlearned=str(file), **given), "quick", ["scores"])
    untouched = audit_files(Files(unlearned=str(again), **given), "quick", ["scores"])
    names = ("forget_loss", "retain_loss")
    original, same = (row for row in untouched.rows())
    assert [same.measured(m).value for m in names] == pytest.approx([original.measured(m).value for m in names], rel=1e-3)
    assert found.value("other", "forget_loss") > 2 * original.measured("forget_loss").value
    assert "other.gguf sha256" in found.results.scenarios[0].facts["checked"][str(file)]
    lacking = written(other, task.tokenizer, tmp_path / "lacking.gguf", "blk.1.ffn_up.weight")
    with pytest.raises(ModelError, match=r"lacks 1 of the weights .*layers\.1\.mlp\.up_proj"):
        load_gguf(lacking)


def test_a_quantised_file_is_audited_as_the_values_that_it_stands_for(tmp_path: Path) -> None:
    """Q8_0: blocks of 32 whole numbers and a scale of 16 bits, so no weight is off by more than half a step."""
    task = tiny.lm()
    file = written(task.original, task.tokenizer, tmp_path / "small.gguf", kind="Q8_0")
    kinds = {str(tensor.name): tensor.tensor_type.name for tensor in reader().GGUFReader(str(file)).tensors}
    assert kinds["blk.0.ffn_down.weight"] == kinds["token_embd.weight"] == "Q8_0" and kinds["output_norm.weight"] == "F32"
    whole, read = task.original.state_dict(), load_gguf(file).state_dict()
    down = "model.layers.0.mlp.down_proj.weight"
    blocks, found = whole[down].view(-1, 32), read[down].view(-1, 32)
    assert not torch.equal(blocks, found)
    step = blocks.abs().amax(1, keepdim=True) / 127
    assert ((blocks - found).abs() <= 0.75 * step).all()   # half of it, and what rounding the scale adds to 127 steps
    given = placed(task, tmp_path)
    original, small = audit_files(Files(unlearned=str(file), **given), "quick", ["scores"]).rows()
    for metric in ("forget_loss", "retain_loss"):
        before, after = original.measured(metric).value, small.measured(metric).value
        assert after == pytest.approx(before, rel=0.1) and after != pytest.approx(before, rel=1e-5)


def test_without_its_reader_or_a_tokenizer_a_gguf_file_is_refused_in_a_sentence(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.import_utils.is_gguf_available", lambda *_: False)
    file, given = tmp_path / "m.gguf", placed(tiny.lm(), tmp_path)
    file.write_bytes(b"GGUF" + bytes(100))
    assert _recognised(file) == "lm"
    with pytest.raises(RequestError, match=r"m\.gguf, a GGUF file, needs gguf, which is not installed.*lethe-unlearning\[gguf\]"):
        audit_files(Files(unlearned=str(file), **given))
    with pytest.raises(RequestError, match=r"no tokenizer.*--original FOLDER"):
        audit_files(Files(unlearned=str(file), forget=given["forget"]))
    with pytest.raises(ModelError, match="is no file"):
        audit_files(Files(unlearned=str(tmp_path / "gone.gguf"), **given))


def test_a_damaged_gguf_file_is_refused(tmp_path: Path) -> None:
    reader()
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(LetheError, match=r"m\.gguf"):
        load_gguf(file)
