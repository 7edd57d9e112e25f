"""Inside a Hugging Face `…ForCausalLM`: logits where they are wanted, hidden states with early exit, blocks, MLPs.

Names differ between architectures, so everything is found by what it is: the head through `get_output_embeddings()`,
the blocks as the list of modules with `num_hidden_layers` entries.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn

from lethe.errors import ModelError, OutOfRange

# the matrix that writes an MLP's result into the residual stream: Llama, Mistral, Qwen, Gemma, Phi-3 | GPT-2,
# StarCoder | GPT-NeoX, Bloom, Falcon | GPT-J, CodeGen | OPT, Phi | fused experts of mixtures
DOWN = re.compile(
    r"^(?:.*\.)?(?:(?:mlp|feed_forward|ffn|block_sparse_moe)\.(?:.*\.)?"
    r"(?:down_proj|c_proj|dense_4h_to_h|fc_out|fc2|w2)(?:\.weight)?|fc2\.weight)$"
)


def head(model: nn.Module) -> nn.Module:
    """The output embedding."""
    found = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    if found is None:
        raise ModelError(f"{type(model).__name__} has no output embeddings, so it predicts no tokens. Load a "
                         "…ForCausalLM model.")
    return found


def logits_at(model: nn.Module, ids: Tensor, keep: Tensor) -> Tensor:
    """Logits of the next token at the K positions where `keep` [n, T] is true, in row order.  -> [K, V]

    The head sees only these positions: a pre-hook hands it [1, K, d] instead of [n, T, d], so no [n, T, V] tensor ever
    exists, and whatever the architecture does behind its head (soft caps, scales) still happens. An architecture that
    does not call its head with [n, T, d] gets the whole forward pass, and the logits are picked afterwards.
    Sequences are padded on the right and attention is causal, so pads cannot reach what stands before them; without a
    mask attention takes its fast path.
    """
    seen: list[bool] = []

    def pick(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if len(args) == 1 and args[0].shape[:2] == keep.shape and not seen:
            seen.append(True)
            return (args[0][keep].unsqueeze(0),)
        return None

    handle = head(model).register_forward_pre_hook(pick)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    return logits[0] if seen else logits[keep]


def blocks(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks, first to last."""
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    found = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
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
        hidden = out[0] if isinstance(out, tuple) else out   # a tuple in older releases of transformers
        if not sharded:
            raise _Enough(hidden)
        caught.append(hidden)

    handle = module.register_forward_hook(stop)
    try:
        model(input_ids=ids, use_cache=False)
    except _Enough as enough:
        return enough.hidden
    finally:
        handle.remove()
    return caught[0]


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
        found = [name for name in own if DOWN.match(name)]
        if not found:
            raise ModelError(f"no MLP down projection was recognised in block {layer} of {type(model).__name__}; its "
                             f"parameters are {', '.join(own[:12])}. Use a method that moves every parameter.")
        names += [f"{prefix}.{layer}.{name}" for name in found]
    return names


def merged(model: nn.Module) -> nn.Module:
    """The model itself, or a copy with its LoRA adapters added into the weights."""
    if not any(hasattr(m, "base_layer") and hasattr(m, "merge") for m in model.modules()):
        return model
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if hasattr(module, "base_layer") and hasattr(module, "merge"):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.base_layer)
    return model


def token_statistics(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """For each position: log p of the token, mean and variance of log p(v) under v ~ p, and whether it is the argmax.

    [K, V], [K] -> four [K]
    """
    logp = torch.log_softmax(logits.float(), -1)
    p = logp.exp()
    mean = (p * logp).nan_to_num(0.0).sum(-1)   # a probability of exactly 0 contributes 0
    square = (p * logp.square()).nan_to_num(0.0).sum(-1)
    return {
        "token_logp": logp.gather(-1, targets.unsqueeze(-1)).squeeze(-1),
        "token_mean": mean,
        "token_var": (square - mean.square()).clamp(min=0),
        "correct": logits.argmax(-1) == targets,
    }
