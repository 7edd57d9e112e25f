"""Inside a Hugging Face `…ForCausalLM`: logits where they are wanted, hidden states with early exit, blocks, MLPs.

Names differ between architectures, so everything is found by what it is: the head through `get_output_embeddings()`,
the blocks as the list of modules with `num_hidden_layers` entries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.adaptable import fold
from lethe.core.guard import Guard, bare
from lethe.core.language_guard import LanguageGuard, shape
from lethe.core.modules import hooked
from lethe.core.parked import parked_copy
from lethe.errors import ModelError, OutOfRange

# the matrix that writes an MLP's result into the residual stream: Llama, Mistral, Qwen, Gemma, Phi-3 | GPT-2,
# StarCoder | GPT-NeoX, Bloom, Falcon | GPT-J, CodeGen | OPT, Phi | fused experts of mixtures
DOWN = re.compile(
    r"^(?:.*\.)?(?:(?:mlp|feed_forward|ffn|block_sparse_moe)\.(?:.*\.)?"
    r"(?:down_proj|c_proj|dense_4h_to_h|fc_out|fc2|w2)(?:\.weight)?|fc2\.weight)$"
)


def head(model: nn.Module) -> nn.Module:
    """The output embedding."""
    ask: Any = getattr(model, "get_output_embeddings", None)
    found: nn.Module | None = ask() if ask is not None else None
    if found is None:
        raise ModelError(f"{type(model).__name__} has no output embeddings, so it predicts no tokens. Load a "
                         "…ForCausalLM model.")
    return found


def logits_at(model: nn.Module, ids: Tensor, keep: Tensor, **reading: Any) -> Tensor:
    """Logits of the next token at the K positions where `keep` [n, T] is true, in row order.  -> [K, V]

    The head sees only these positions: a pre-hook hands it [1, K, d] instead of [n, T, d], so no [n, T, V] tensor ever
    exists, and whatever the architecture does behind its head (soft caps, scales) still happens. An architecture that
    does not call its head with [n, T, d] gets the whole forward pass, and the logits are picked afterwards.
    Sequences are padded on the right and attention is causal, so pads cannot reach what stands before them; without a
    mask attention takes its fast path. reading: a mask, positions and
    keys and values of one's own, of a model that is no guard.
    """
    if isinstance(model, Guard):   # it answers as a whole: nothing inside it is looked at
        prompts = {"asked": keep.int().argmax(1) + 1} if isinstance(model, LanguageGuard) else {}
        guarded: Tensor = model(input_ids=ids, use_cache=False, **prompts).logits[keep]
        return guarded
    seen: list[bool] = []

    def pick(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if len(args) == 1 and args[0].shape[:2] == keep.shape and not seen:
            seen.append(True)
            return (args[0][keep].unsqueeze(0),)
        return None

    with hooked(head(model).register_forward_pre_hook(pick)):
        logits: Tensor = model(input_ids=ids, use_cache=cache_name() in reading, **reading).logits
    return logits[0] if seen else logits[keep]


@cache
def cache_name() -> str:
    """How the installed transformers calls keys and values that are handed on: `cache` from 5.24 on."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    return "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


def blocks(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks, first to last."""
    count = getattr(shape(model), "num_hidden_layers", None)
    ask: Any = getattr(model, "get_decoder", None)
    found = [m for body in (ask() if ask is not None else model, model) for m in body.modules()
             if isinstance(m, nn.ModuleList) and len(m) == count]
    if not found:
        raise ModelError(f"no list of {count} blocks was found in {type(model).__name__}, so hidden layers cannot be "
                         "named. Use a method or audit that does not read hidden layers.")
    return found[0]


class _Enough(Exception):
    """Carries the hidden state out of a forward pass that need not go on."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def hidden_after(model: nn.Module, ids: Tensor, layer: int) -> Tensor:
    """The residual stream after block `layer` (0 is the first; negative counts from the end).  -> [n, T, d]

    The forward pass stops there: a hook on the block raises, and the exception carries the hidden state with its graph.
    Later blocks, the last norm and the head are never computed. Sharded models (FSDP) must finish their forward pass to
    gather and free their weights, so there the whole pass is made.
    """
    module = blocks(model)[checked_layer(model, layer)]
    sharded = hasattr(next(model.parameters()), "placements")
    caught: list[Tensor] = []

    def stop(_: nn.Module, __: Any, out: Any) -> None:
        hidden = _stream(out)
        if not sharded:
            raise _Enough(hidden)
        caught.append(hidden)

    with hooked(module.register_forward_hook(stop)):
        try:
            model(input_ids=ids, use_cache=False)
        except _Enough as enough:
            return enough.hidden
    return caught[0]


def hidden_all(model: nn.Module, ids: Tensor, keep: Tensor) -> Tensor:
    """The residual stream after every block at the K positions where `keep` [n, T] is true.  -> [L, K, d]"""
    states: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _, __, out: states.append(_stream(out)[keep])) for block in blocks(model)]
    with hooked(*handles):
        model(input_ids=ids, use_cache=False)
    return torch.stack(states)


def final_norm(model: nn.Module) -> nn.Module:
    """The norm between the last block and the head: beside the blocks, the last module with one weight per dimension."""
    stack = blocks(model)
    parent = next(m for m in model.modules() if any(child is stack for child in m.children()))
    wide = _table(model).shape[-1]
    norms = [m for m in parent.children() if getattr(getattr(m, "weight", None), "shape", None) == (wide,)]
    return norms[-1] if norms else nn.Identity()


def read_out(model: nn.Module, hidden: Tensor) -> Tensor:
    """Logits of hidden states as if the model ended there: final norm, the head, and what some do to its logits: Cohere and
    Granite scale them, Gemma 2 bounds them.  [..., d] -> [..., V]"""
    logits: Tensor = head(model)(final_norm(model)(hidden))
    settings = shape(model)
    logits = logits * (getattr(settings, "logit_scale", None) or 1.0) / (getattr(settings, "logits_scaling", None) or 1.0)
    bound = getattr(settings, "final_logit_softcapping", None)
    return logits if bound is None else bound * torch.tanh(logits / bound)


@contextmanager
def rewriting(model: nn.Module, rewrite: Callable[[int, Tensor], Tensor], layers: Iterable[int] | None = None) -> Iterator[None]:
    """Inside, the output h [n, T, d] of every block (or of `layers`) is replaced by `rewrite(layer, h)`."""
    stack, handles = blocks(model), []
    for layer in range(len(stack)) if layers is None else layers:

        def hook(_: nn.Module, __: Any, out: Any, layer: int = layer) -> Any:
            new = rewrite(layer, _stream(out))
            return (new, *out[1:]) if isinstance(out, tuple) else new

        handles.append(stack[layer].register_forward_hook(hook))
    with hooked(*handles):
        yield


def require_alike(model: nn.Module, other: nn.Module, what: str) -> None:
    """ModelError when hidden states of one cannot replace those of the other, or tokens mean different things."""
    shapes = [(len(blocks(m)), *_table(m).shape[::-1]) for m in (model, other)]
    if shapes[0] != shapes[1]:
        sizes = [f"{count} blocks, width {wide}, {vocabulary} tokens" for count, wide, vocabulary in shapes]
        raise ModelError(f"{what} compares models of one architecture, but these have {sizes[0]} and {sizes[1]}, so their hidden "
                         "states mean different things. Provide models made from the same original, or leave the audit out.")


def require_vocabulary(model: nn.Module, size: int) -> None:
    """ModelError when the model does not have as many tokens as the data were written with."""
    own = len(_table(bare(model)))
    if own < size:
        raise ModelError(f"{type(model).__name__} has {own} tokens, but the data are written in the {size} of the original, so "
                         "its answers cannot be compared token by token. Provide models that share the original's tokenizer.")


def _table(model: nn.Module) -> Tensor:
    return cast(Tensor, head(model).weight)   # [V, d]


def _stream(out: Any) -> Tensor:
    stream: Tensor = out[0] if isinstance(out, tuple) else out   # a tuple in older releases of transformers
    return stream


def checked_layer(model: nn.Module, layer: int) -> int:
    """A block number from 0; OutOfRange when there is no such block."""
    count = len(blocks(model))
    if not -count <= layer < count:
        raise OutOfRange(f"layer {layer} does not exist, so nothing was started: {type(model).__name__} has blocks "
                         f"0…{count - 1}.")
    return layer % count


def down_projections(model: nn.Module, layers: list[int]) -> list[str]:
    """Names of the weights that write an MLP's result into the residual stream, for these blocks. Biases stay out."""
    stack = blocks(model)
    prefix = next(name for name, module in model.named_modules() if module is stack)
    names = []
    for layer in layers:
        own = [name for name, _ in stack[checked_layer(model, layer)].named_parameters()]
        found = [name for name in own if DOWN.match(name.replace(".base_layer", ""))]   # adapters wrap the layer
        if not found:
            raise ModelError(f"no MLP down projection was recognised in block {layer} of {type(model).__name__}; its "
                             f"parameters are {', '.join(own[:12])}. Use a method that moves every parameter.")
        names += [f"{prefix}.{layer}.{name}" for name in found]
    return names


def merged(model: nn.Module) -> nn.Module:
    """The model itself, or a copy with its LoRA adapters added into the weights."""
    return fold(parked_copy(model)) if any(hasattr(m, "base_layer") for m in model.modules()) else model


def token_statistics(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """For each position: log p of the token, mean and variance of log p(v) under v ~ p, and whether it is the argmax.

    [K, V], [K] -> four [K]
    """
    logp = torch.log_softmax(logits.float(), -1)
    p, bounded = logp.exp(), logp.clamp(min=-1e4)   # a probability of exactly 0 contributes 0, not 0 · −∞
    weighted = p * bounded
    mean, square = weighted.sum(-1), (weighted * bounded).sum(-1)
    return {
        "token_logp": logp.gather(-1, targets.unsqueeze(-1)).squeeze(-1),
        "token_mean": mean,
        "token_var": (square - mean.square()).clamp(min=0),
        "correct": likeliest(logits) == targets,
    }


def likeliest(logits: Tensor) -> Tensor:
    """The arg-max, of equals the first.  [..., V] -> [...]

    By NumPy on a CPU: 8 × sooner there (4,096 tokens, torch 2.13, one core), and a fortieth of TOFU's metrics.
    """
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    return torch.from_numpy(np.asarray(logits.detach().float().numpy().argmax(-1)))
