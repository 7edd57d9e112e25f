"""What OpenUnlearning (locuslab/open-unlearning, read at d3d7cf9) does for NPO with its retain loss and for RMU, spelled out.

The same mathematics and, where it matters for cost, the same way:

    reference   a second model in memory, frozen, that is asked at every step
    batches     drawn at random, a retained example for each forgotten one, padded to the longest of the batch, with a mask
    logits      of every position, padding included; the retain loss is the mean over the batch's tokens
    RMU         whole forward passes of both models; the squared distance over the answer's tokens of block ℓ
    optimiser   AdamW in float32 (theirs is the paged one of bitsandbytes), one step for both terms

Kinder than the original where that costs it nothing to concede: the loss of transformers is not computed beside NPO's own (they
pass labels and drop it), RMU divides each example by its own length (theirs makes a b × b matrix), and what RMU does not move
collects no gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.split import Split

BETA, ALPHA, DECAY, IGNORED = 0.1, 1.0, 0.01, -100
STEERING = 20.0
LINEAR = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
Inputs = dict[str, Tensor]


def pairs(forget: Split, retain: Split, steps: int, size: int, device: str, seed: int = 0) -> Iterator[tuple[Inputs, Inputs]]:
    """Batches of forgotten examples in random order, each with as many random retained ones."""
    rng = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(forget), generator=rng) for _ in range(-(-steps * size // len(forget)))])
    for step in range(steps):
        own = order[step * size : (step + 1) * size]
        other = torch.randint(len(retain), (len(own),), generator=rng)
        yield collated(forget, own, device), collated(retain, other, device)


def collated(split: Split, index: Tensor, device: str) -> Inputs:
    """A batch as wide as its longest example."""
    length = split.columns["length"][index]
    width = int(length.max())
    ids, labels = (split.columns[key][index, :width].to(device) for key in ("ids", "labels"))
    mask = (torch.arange(width) < length.unsqueeze(1)).long().to(device)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def summed_nll(model: Any, batch: Inputs) -> Tensor:
    """Negative log-probability of each answer, from the logits of all positions.  -> [n]"""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    predicted, labels = logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:]
    return F.cross_entropy(predicted.float(), labels, ignore_index=IGNORED, reduction="none").sum(1)


def npo(model: Any, batches: Iterator[tuple[Inputs, Inputs]], autocast: Callable[[], AbstractContextManager[Any]],
        lora: bool = False, lr: float = 1e-5) -> nn.Module:
    """NPO with the retain loss: -2/β·mean log σ(β(ℓ − ℓ_0)) + mean token loss of R."""
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    moving = adapted(model, LINEAR) if lora else list(model.parameters())
    optimiser = torch.optim.AdamW(moving, lr=lr, weight_decay=DECAY, fused=True)
    model.train()
    for forget, retain in batches:
        with autocast():
            with torch.no_grad():
                before = summed_nll(reference, forget)
            away = -2 / BETA * F.logsigmoid(BETA * (summed_nll(model, forget) - before)).mean()
            kept = model(**retain, use_cache=False).loss
        optimiser.zero_grad()
        (away + ALPHA * kept).backward()
        optimiser.step()
    return model


def rmu(model: Any, batches: Iterator[tuple[Inputs, Inputs]], autocast: Callable[[], AbstractContextManager[Any]],
        lora: bool = False, lr: float = 5e-5, layer: int = 7, alpha: float = 1.0) -> nn.Module:
    """RMU on block ℓ: the down projections of ℓ−2 … ℓ move."""
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    names = [f"model.layers.{one}.mlp.down_proj" for one in range(max(0, layer - 2), layer + 1)]
    for p in model.parameters():
        p.requires_grad_(False)
    if lora:
        moving = adapted(model, "|".join(name.replace(".", r"\.") for name in names))
    else:
        moving = [model.get_submodule(name).weight.requires_grad_(True) for name in names]
    optimiser = torch.optim.AdamW(moving, lr=lr, weight_decay=DECAY, fused=True)
    model.train()
    wide = model.config.hidden_size
    r = torch.rand(1, 1, wide, generator=torch.Generator().manual_seed(0)).to(moving[0].device)
    control = r / r.norm() * STEERING
    for forget, retain in batches:
        with autocast():
            away = distance(states(model, forget, layer), control, forget)
            with torch.no_grad():
                before = states(reference, retain, layer)
            kept = distance(states(model, retain, layer), before, retain)
        optimiser.zero_grad()
        (away + alpha * kept).backward()
        optimiser.step()
    return model


def states(model: Any, batch: Inputs, layer: int) -> Tensor:
    """What block `layer` gives out, caught in a whole forward pass.  -> [n, T, d]"""
    caught: list[Tensor] = []
    handle = model.model.layers[layer].register_forward_hook(
        lambda _, __, out: caught.append(out[0] if isinstance(out, tuple) else out))
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    handle.remove()
    return caught[0]


def distance(hidden: Tensor, target: Tensor, batch: Inputs) -> Tensor:
    """Mean squared distance over the answer's tokens, mean over examples.  -> []"""
    mask = batch["labels"] != IGNORED
    square = F.mse_loss(hidden.float(), target.float().expand_as(hidden), reduction="none").mean(2)
    return ((square * mask).sum(1) / mask.sum(1)).mean()


def adapted(model: nn.Module, layers: str) -> Sequence[nn.Parameter]:
    """PEFT's adapters of rank 8 on the layers that the pattern names; they alone move."""
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=8, lora_alpha=16, target_modules=layers), model)
    found = [p for name, p in model.named_parameters() if "lora_" in name]
    for p in found:
        p.requires_grad_(True)
    return found


METHODS: dict[str, Callable[..., nn.Module]] = {"npo": npo, "rmu": rmu}
