"""Causal language models of many architectures, tiny, made from transformers' own configurations; a tokenizer trained here.

    folder = saved("Gemma2", path)      a `save_pretrained` folder of the architecture, with tokenizer and chat template
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lethe.core.outcome import Outcome

CHAT = ("{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}")

# sizes under their usual names; what an architecture calls otherwise stands in its row
WIDE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 128}
INNER = {**WIDE, "intermediate_size": 48}
GROUPED = {**INNER, "num_key_value_heads": 1}
HEADED = {**GROUPED, "head_dim": 16}
LATENT = {**INNER, "num_key_value_heads": 2, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
          "v_head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
MAMBA = {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}
GEMMA3 = {**HEADED, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
LLAMA4 = {**HEADED, "intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": 32}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28,
          "patch_size": 14}

LLAMA4_BROKEN = pytest.mark.xfail(
    version("transformers").startswith("5.24."), raises=AttributeError, strict=True,
    reason="this version's Llama 4 asks its text part for pictures (image_outputs) that it does not answer with")
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": {**HEADED, "sliding_window": 16},
    "qwen2": GROUPED,
    "qwen3": HEADED,
    "gemma": HEADED,
    "gemma2": {**HEADED, "sliding_window": 16, "query_pre_attn_scalar": 16},
    "gemma3_text": GEMMA3,
    "gemma3": {"text_config": GEMMA3, "vision_config": VISION, "mm_tokens_per_image": 4},
    "llama4": {"text_config": LLAMA4, "image_token_index": 299, "vision_config": {
        **VISION, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}},
    "llava": {"text_config": {"model_type": "llama", **GROUPED}, "image_token_index": 299,
              "vision_config": {"model_type": "clip_vision_model", **VISION, "projection_dim": 16}},
    "mistral3": {"text_config": {"model_type": "mistral", **HEADED}, "image_token_index": 299,
                 "vision_config": {"model_type": "pixtral", **VISION, "head_dim": 8}},
    "qwen2_5_vl": {"image_token_id": 299, "video_token_id": 298, "vision_start_token_id": 297,
                   "text_config": {**GROUPED, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3],
                                                                  "rope_theta": 10000.0}},
                   "vision_config": {"depth": 3, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
                                     "out_hidden_size": 32, "patch_size": 14}},
    "phi": GROUPED,
    "phi3": GROUPED,
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 128},
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]],
                "window_size": 16, "max_position_embeddings": 128},
    "gpt_neox": INNER,
    "gptj": {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 128, "rotary_dim": 8},
    "codegen": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "rotary_dim": 8},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 128},
    "opt": {**WIDE, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 2},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2},
    "mpt": {"d_model": 32, "n_layers": 3, "n_heads": 2, "max_seq_len": 128},
    "stablelm": GROUPED,
    "starcoder2": GROUPED,
    "cohere": GROUPED,
    "olmo2": GROUPED,
    "granite": GROUPED,
    "nemotron": HEADED,
    "smollm3": GROUPED,
    "glm4": HEADED,
    "mixtral": {**GROUPED, "num_local_experts": 4},
    "qwen2_moe": {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {**HEADED, **EXPERTS},
    "olmoe": {**GROUPED, **EXPERTS},
    "qwen3_next": {**HEADED, **EXPERTS, "shared_expert_intermediate_size": 24, "linear_key_head_dim": 8,
                   "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
                   "layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "deepseek_v3": {**LATENT, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_group": 2,
                    "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1},
    "gpt_oss": {**HEADED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "llama4_text": LLAMA4,
    "mamba": MAMBA,
    "mamba2": {**MAMBA, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    "falcon_mamba": MAMBA,
    "rwkv": {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 3, "context_length": 128},
    "jamba": {**GROUPED, "num_experts": 2, "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False,
              "attn_layer_period": 3, "attn_layer_offset": 1},
    "lfm2": {**GROUPED, "layer_types": ["conv", "full_attention", "conv"], "full_attn_idxs": [1]},
}


def people(count: int = 24) -> list[dict[str, Any]]:
    """Made-up records of one person each."""
    rng, sounds = random.Random(0), ["ba", "ko", "mi", "ru", "sel", "tan", "vo", "dri"]
    rows = []
    for i in range(count):
        name = "".join(rng.sample(sounds, 3)).capitalize()
        likes = " and ".join(rng.sample(["figs", "rain", "chess", "maps", "salt"], 1 + i % 3))
        rows.append({"id": f"p{i}", "person": i, "prompt": f"What does {name} like?", "answer": f"{name} likes {likes}."})
    return rows


@cache
def tokenizer(chat: bool = True) -> Any:
    """A byte-level tokenizer of 300 tokens, learnt from `people`; with a chat template."""
    from lethe.models.lm.small import train_tokenizer

    made = train_tokenizer([f"{row['prompt']} {row['answer']}" for row in people()], 300)
    if chat:
        made.chat_template = CHAT
    return made


# a generation_config.json that would have a model answer otherwise than with its most likely tokens
HOSTILE = {"do_sample": True, "temperature": 3.0, "top_k": 5, "num_beams": 3, "repetition_penalty": 1.9,
           "no_repeat_ngram_size": 2, "min_new_tokens": 4, "max_length": 7, "bad_words_ids": [[5]],
           "suppress_tokens": [10, 11], "length_penalty": 0.1}


def argmax(model: Any, prompt: list[int], count: int, ends: list[int]) -> list[int]:
    """The most likely tokens one after the other, each from a whole pass, up to an end."""
    made: list[int] = []
    while len(made) < count:
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([prompt + made]), use_cache=False).logits[0, -1].argmax())
        if token in ends:
            break
        made.append(token)
    return made


def saved(name: str, folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """The architecture with seeded weights as a folder that `from_pretrained` reads."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    words = tokenizer()
    special = {"vocab_size": len(words), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes = dict(ARCHITECTURES[name])
    if "text_config" in sizes:
        sizes["text_config"] = {**sizes["text_config"], **special}
        special = {}
    torch.manual_seed(seed)
    kind = AutoModelForImageTextToText if "vision_config" in sizes else AutoModelForCausalLM
    model = kind.from_config(AutoConfig.for_model(name, **sizes, **special))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3)   # what follows depends on the prompt
            weight.data = weight.data.to(dtype)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({**HOSTILE, "eos_token_id": 2, "pad_token_id": 0}))
    return folder


def asked_when_saved(monkeypatch: pytest.MonkeyPatch, ask: Callable[[Any, nn.Module], Tensor]) -> list[Tensor]:
    """Takes what every model answers at the moment it is written, which is what was audited."""
    found: list[Tensor] = []
    save = Outcome.save

    def noted(self: Outcome, to: str | Path) -> Path:
        found.append(ask(self.task, self.model))
        return save(self, to)

    monkeypatch.setattr(Outcome, "save", noted)
    return found
