"""DyME: one adapter a concept, which keeps out of the way of those on a takedown list, so that they can be composed per request.
Liu, Zhang & Yuan (2025), "DyME: Dynamic Multi-Concept Erasure in Diffusion Models with Bi-Level Orthogonal LoRA Adaptation",
arXiv:2509.21433.

    y = W h + B A h                                  keys and values of cross-attention
    L = ‖ε_{BA}(x_t, c) − [ε_0(x_t, ∅) − η (ε_0(x_t, c) − ε_0(x_t, ∅))]‖²
        + φ E_j Σ_h (B A h · B_j A_j h)² / Σ_h ‖B A h‖² ‖B_j A_j h‖²                          features
        + ψ E_j ½ [ ‖A A_jᵀ‖² / ‖A‖² ‖A_j‖²  +  ‖Bᵀ B_j‖² / ‖B‖² ‖B_j‖² ]                     weights

c prompts with the concept, ∅ the empty prompt, ε_0 the original, which stays as it is, A, B the new adapter, A_j, B_j those of
the concepts on the list, h what the layer reads; E also over the layers that both adapters have. All norms are Frobenius'; each
overlap lies in [0, 1].

    lethe run request.yaml method=dyme                                 # the first concept
    lethe concepts add takedown runs/ID/models/dyme --concept disk
    lethe run next.yaml method=dyme method.others=takedown             # the second one, out of the way of the first
    lethe concepts add takedown runs/ID/models/dyme --concept cross
    lethe concepts compose takedown pipeline --output served

Needs:    original, and prompts; no pictures.
Updates:  A and B; the outcome is an adapter beside the original.
Cost:     as `esd`; the overlaps cost two small products a layer and concept of the list.
Limits:   no list, or φ = ψ = 0: ESD by an adapter. Taken off, the original is back bit for bit.
Fails by: leaving what is like a concept of the list. Preset shapes_erase, disk, cross and red in this order, 2 seeds, 100 steps
          of 16 points at 3e-3, 12 pictures a prompt; original 0.07 erased, 0.90 of kept pictures right (colour and shape).
          Composed, φ = ψ = 0: erased 0.85, 0.90, kept 0.25, 0.32, overlap of weights 0.17, 0.19; φ = ψ = 1: erased 0.63, 0.69,
          kept 0.53, 0.43, overlap 0.01. Disk and red go as before (0.81 and 1.00; before 0.85 and 1.00), but the cross, which
          must leave the picture by the way that the disk took, stays: 0.04, 0.29 erased, without overlap terms 0.65, 0.90. More
          is kept at less erased: that orthogonal adapters erase more together is not reproduced. Smaller weights were not
          measured. One adapter alone, at these strong options, keeps 0.42 (seed 0): most is lost before anything is composed.
Deviations: read from the abstract alone, which has both levels and no formula: these overlaps are ours, and so is the eraser,
          ESD's. The paper trains the adapters of a set side by side; here one joins a list that stands, so the first knows none.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import hooked
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.core.user_files import understood
from lethe.errors import RequestError
from lethe.maths.losses import squared_distance
from lethe.train.erasing import esd_points
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.where.lora import A, B, Lora

Product = tuple[Tensor, Tensor]      # A [r, in], B [out, r]
TINY = 1e-20                         # below it a product of norms is 0: B is, at first


@config
class DyME:
    """Options of DyME."""

    others: str = ""                   # the takedown list that the adapter is to join; empty: none yet [tested in test_dyme]
    features: NonNegative = 1.0        # φ, weight of the overlap of what adapters add     [ours] [tested in test_dyme]
    weights: NonNegative = 1.0         # ψ, weight of the overlap of adapters              [ours] [tested in test_dyme]
    eta: NonNegative = 1.0             # η, negative guidance                              [ESD]
    rank: Count = 4                    # of the adapter; its scale is 1                    [ours]
    lr: Positive = 1e-4                # AdamW; tiny models need about 3e-3                [ours]
    steps: Count = 1000                # optimiser steps                                   [ESD]
    batch_size: Count = 1              # points per step                                   [ESD]
    trajectories: Count = 20           # over all prompts                                  [ours]
    sampler_steps: Count = 50          # steps of a trajectory                             [ESD]
    start_guidance: NonNegative = 3.0  # guidance of the trajectories; 1 for tiny models   [ESD]


def feature_overlap(one: Tensor, other: Tensor) -> Tensor:
    """Σ (a · b)² / Σ ‖a‖² ‖b‖² over rows; 0 where one is 0.  [..., d] ×2 -> []

    (3, 4) and (1, 0): 9 / 25. Beside a row of (0, 2) and (1, 0): 9 / (25 + 4).
    """
    together = (one * other).sum(-1).square().sum()
    return together / (one.square().sum(-1) * other.square().sum(-1)).sum().clamp(min=TINY)


def weight_overlap(one: Product, other: Product) -> Tensor:
    """½ [‖A A'ᵀ‖² / ‖A‖² ‖A'‖² + ‖Bᵀ B'‖² / ‖B‖² ‖B'‖²]; a factor that is 0 counts as 0.

    A = (1, 0), A' = (3, 4); B = (1, 0)ᵀ, B' = (0, 1)ᵀ: ½ (9/25 + 0).
    """
    (down, up), (down_, up_) = one, other
    shares = [(a.T @ b).square().sum() / (a.square().sum() * b.square().sum()).clamp(min=TINY)
              for a, b in ((down.T, down_.T), (up, up_))]
    return torch.stack(shares).mean()


def listed(folder: str, layers: Mapping[str, nn.Linear], device: str) -> list[dict[str, Product]]:
    """The adapters on a takedown list, by layer, of these layers. RequestError for what is no list, or has none of them."""
    from safetensors.torch import load_file

    files, found = sorted(Path(folder).glob("*.safetensors")), []
    if not files:
        raise RequestError(f"others={folder!r} holds no adapter, so there is nothing to keep off; nothing was started. Make a "
                           "list by lethe concepts add, or leave others out.")
    for file in files:
        with understood(file, "the adapter of a concept", "Take it off the list and add it again."):
            held = {name.split(".", 1)[1]: value.float().to(device) for name, value in load_file(file).items()}
            mine = {name: (held[f"{name}.lora_A.weight"], held[f"{name}.lora_B.weight"]) for name in layers
                    if f"{name}.lora_A.weight" in held}
        if any((up.shape[0], down.shape[1]) != tuple(layers[name].weight.shape) for name, (down, up) in mine.items()) or not mine:
            raise RequestError(f"{file} changes no layer that dyme adapts, or one of another size, so it could not be kept "
                               "off; nothing was started. Give a list of dyme's adapters for this model.")
        found.append(mine)
    return found


@method(needs={"original"}, mechanism="distil",
        uses={"attention_projections", "concepts", "denoise", "predict", "prompts", "text", "tokens"})
def run(cfg: DyME, task: DiffusionTask, loop: Loop) -> Outcome:
    layers = task.attention_projections(task.original)
    others = listed(cfg.others, layers, loop.device) if cfg.others else []
    points = esd_points(task, loop, "dyme", cfg.eta, cfg.trajectories, cfg.sampler_steps, cfg.start_guidance)
    pairs = [(name, other[name]) for other in others for name in other]

    def erase(model: nn.Module, batch: Batch) -> Tensor:
        seen: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for name in dict.fromkeys(name for name, _ in pairs):
                stack.enter_context(hooked(model.get_submodule(name).register_forward_pre_hook(reading(seen, name))))
            said = task.predict(model, batch.image, batch.t, task.text(batch.tokens))
        loss = squared_distance(said, batch.target)
        for name, other in pairs:
            own = (model.get_parameter(f"{name}.{A}"), model.get_parameter(f"{name}.{B}"))
            added, old = (seen[name] @ down.T @ up.T for down, up in (own, other))
            overlap = cfg.features * feature_overlap(added, old) + cfg.weights * weight_overlap(own, other)
            loss = loss + overlap / len(pairs)
        return loss

    model = loop.start(where=Lora(rank=cfg.rank, alpha=float(cfg.rank), targets=tuple(layers)))
    loop.minimise(model, {"erase": Term(points, erase)}, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size,
                  optimiser="adamw", weight_decay=0.01)
    return loop.finish(model)


def reading(seen: dict[str, Tensor], name: str) -> Any:
    """A hook that keeps what a layer reads."""
    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[name] = given[0].detach()
    return hook
