"""Receler: small erasers behind every cross-attention, trained against prompts that bring the concept back, and held still where
the concept is not. Huang, Chen, Chang, Tsai, Chen & Wang (2024), arXiv:2311.17717 (ECCV 2024).

    o_l = attn_l(x, c) + e_l,    e_l = U_l GELU(D_l attn_l(x, c) + b_l) + b'_l          U_l, b'_l zero at first
    L(e) = ‖ε_e(x_t, c ⊕ δ) − [ε_0(x_t, ∅) − η (ε_0(x_t, c) − ε_0(x_t, ∅))]‖²  +  λ mean_l Σ_{p∉M} ‖e_l(p)‖²/d_l / |p∉M|
    L(δ) = ‖ε_e(x_t, c ⊕ δ) − ε_0(x_t, c)‖² + ½ w ‖δ‖²

c a prompt with the concept, c ⊕ δ its text states with the slots δ from its end token on, ∅ the empty prompt, ε_0 the original,
ε_e the original with its erasers. M are the places at which the original looks at the concept's words in c: its maps of a quarter
of the picture's side, the mean over layers, heads and tokens, from 0 to 1 between the least and the largest, at `threshold` or
above. At each step δ takes `attack_steps` steps of Adam from where it stands, and at the last of them the erasers take one.
Needs:    original, and prompts; no pictures.     Updates: erasers of rank r; the outcome is a guard.
Cost:     `trajectories` full samplings and two frozen forwards per visited point, once; per step `attack_steps` + 1
          forward/backwards.
Limits:   taken off, the original is back bit for bit; without slots it would be ESD on adapters.
Fails by: slots that stand where no prompt of this length has words teach little; a threshold of 0 holds nothing still (audit:
          `erasure`, kept accuracy).
Deviations: x_t are from the original, cached, not from the network with its erasers at every step, and prompts stand as the
          request words them, not the concept alone. Where the network has no maps of a quarter of the side the nearest are taken
          (official: 16 × 16).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.core.config import Count, Fraction, NonNegative, Positive, config
from lethe.core.families.diffusion import AroundNetwork, DiffusionTask
from lethe.core.guard import Parts
from lethe.core.modules import hooked, seeded
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split
from lethe.maths.attention import resized, shown_at
from lethe.maths.losses import squared_distance
from lethe.train.erasing import ADDED, answered, esd_target, joined, moved, visited
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.combine import Apply, Ask

SLOTS = "attack"     # what stands in the model, beside the erasers, while it is trained


@config
class Receler:
    """Options of Receler."""

    rank: Count = 128                  # r, inner width of an eraser                                [official code]
    eta: NonNegative = 1.0             # η, negative guidance                                       [official code]
    lamb: NonNegative = 0.1            # λ, weight of what is held still [e.g. 100]                 [official code]
    threshold: Fraction = 0.1          # of a look from which a place shows the concept             [official code]
    slots: Count = 16                  # states that the attack writes, from the end token on       [official code]
    attack_steps: Count = 50           # Adam steps of δ at each step                               [official code]
    attack_lr: Positive = 0.1          # of δ                                                       [official code]
    attack_decay: NonNegative = 0.1    # w, weight decay of δ                                       [official code]
    lr: Positive = 3e-4                # Adam; tiny models need about 1e-3                          [official code]
    steps: Count = 500                 # optimiser steps of the erasers                             [official code]
    batch_size: Count = 1              # points per step                                            [official code]
    trajectories: Count = 20           # over all prompts                                           [ours]
    sampler_steps: Count = 50          # steps of a trajectory                                      [official code]
    start_guidance: NonNegative = 3.0  # guidance of the trajectories; 1 for tiny models            [official code]


class Eraser(nn.Module):
    """U GELU(D x + b) + b', zero at first.  [n, S, d] -> [n, S, d]"""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.up(F.gelu(self.down(x)))
        return said


@contextmanager
def behind(model: nn.Module, erasers: Mapping[str, Eraser], said: dict[str, Tensor]) -> Iterator[None]:
    """Inside, each eraser adds to what the layer of its name says, and leaves that in `said`."""
    def hook(name: str, eraser: Eraser) -> Any:
        def add(_: nn.Module, __: Any, out: Tensor) -> Tensor:
            said[name] = eraser(out)
            return out + said[name]
        return add

    handles = [model.get_submodule(name).register_forward_hook(hook(name, eraser)) for name, eraser in erasers.items()]
    with hooked(*handles):
        yield


class Erased(AroundNetwork, Parts):
    """A network with an eraser behind each of `layers`; their tensors are down_0, down_bias_0, up_0, up_bias_0, …"""

    layers: list[str]

    def forward(self, *args: Any, **given: Any) -> Any:
        with behind(self.model, self.erasers(), {}):
            return self.model(*args, **given)

    def erasers(self) -> dict[str, Eraser]:
        """The erasers by the name of their layer."""
        found = {}
        for i, name in enumerate(self.layers):
            down = self.get_buffer(f"down_{i}")
            found[name] = Eraser(down.shape[1], down.shape[0]).to(down)
            found[name].requires_grad_(False)
            for part, tensor in _parts(found[name]).items():
                tensor.copy_(self.get_buffer(f"{part}_{i}"))
        return found


def _parts(eraser: Eraser) -> dict[str, Tensor]:
    return {"down": eraser.down.weight, "down_bias": eraser.down.bias, "up": eraser.up.weight, "up_bias": eraser.up.bias}


def held_still(said: Tensor, mask: Tensor) -> Tensor:
    """Σ_{p∉M} ‖e(p)‖²/d / |p∉M|, M resized to the layer.  [n, S, d], [n, h, w] bool -> [n]

    Two places, M the first, e = (9, (1, 2)): (1 + 4)/2 = 2.5.
    """
    height = round((said.shape[1] * mask.shape[1] / mask.shape[2]) ** 0.5)
    outside = (~resized(mask, (height, said.shape[1] // height))).flatten(1).float()
    found: Tensor = (said.square().mean(2) * outside).sum(1) / (outside.sum(1) + 1e-9)
    return found


def with_slots(text: Tensor, slots: Tensor, end: Tensor, rows: int) -> Tensor:
    """c ⊕ δ: text states with the slots in the place of what stands from the end token on.  [n, L + …, d], [n, k, d], [n]"""
    places = end.view(-1, 1) + torch.arange(slots.shape[1], device=end.device)
    example, slot = (places < rows).nonzero(as_tuple=True)
    return text.clone().index_put((example, places[example, slot]), slots[example, slot])


@dataclass(frozen=True)
class Rounds:
    """combine: δ by the attack, and at its last step the erasers as well."""

    attack_steps: int

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        for _ in range(self.attack_steps - 1):
            apply(gradients(["attack"]))
        erase, attack = gradients(["erase"]), gradients(["attack"])
        apply([a + b for a, b in zip(erase, attack, strict=True)])


@method(needs={"original"}, mechanism="guard", uses={
    "attention_maps", "concepts", "denoise", "layers", "named_tokens", "predict", "prompts", "shape", "text", "tokens",
    "words"})
def run(cfg: Receler, task: DiffusionTask, loop: Loop) -> Outcome:
    points, rows, device = targeted(cfg, task, loop), task.words(task.tokens([""]))[0].states.shape[1], loop.settings.device
    model = loop.start(where=moved(task, "keys"))
    erasers, scale = erasers_for(cfg, loop, model), cfg.lr / cfg.attack_lr
    own = joined(loop, model, erasers.values())
    text = task.text(task.tokens([""]))
    slots = torch.rand(len(task.concepts), cfg.slots, text.shape[2], generator=loop.generator("receler", "attack"))
    model.register_parameter(SLOTS, nn.Parameter(slots.to(device) * scale))   # Adam's step does not feel the scale
    loop.include(model, SLOTS)
    said: dict[str, Tensor] = {}
    batches: list[Batch] = []

    def attacked(m: nn.Module, batch: Batch) -> Tensor:
        slots = m.get_parameter(SLOTS)[batch.concept] / scale
        return task.predict(m, batch.image, batch.t, with_slots(task.text(batch.tokens), slots, batch.end, rows))

    def erase(m: nn.Module, batch: Batch) -> Tensor:
        loss = squared_distance(attacked(m, batch), batch.target)
        return loss + cfg.lamb * torch.stack([held_still(one, batch.mask) for one in said.values()]).mean(0)

    def attack(m: nn.Module, batch: Batch) -> Tensor:
        decay = cfg.attack_decay / 2 * (m.get_parameter(SLOTS) / scale).square().sum()
        return squared_distance(attacked(m, batch), batch.cond) + decay

    def first(batch: Batch, rng: torch.Generator) -> Batch:
        batches[:] = [batch]
        return batch

    terms = {"erase": Term(points, erase, moves=own, prepare=first),
             "attack": Term(points, attack, moves=frozenset({SLOTS}), prepare=lambda batch, rng: batches[0])}   # the same points
    with behind(model, erasers, said):
        loop.minimise(model, terms, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size, optimiser="adam",
                      combine=Rounds(cfg.attack_steps))
    parts = {f"{part}_{i}": tensor for i, one in enumerate(erasers.values()) for part, tensor in _parts(one).items()}
    for name in (SLOTS, ADDED):
        delattr(model, name)
    return loop.finish(model, guard=lambda m: Erased(m, layers=list(erasers), **parts))


def erasers_for(cfg: Receler, loop: Loop, model: nn.Module) -> dict[str, Eraser]:
    """An eraser for every layer of cross-attention, by its name."""
    wide = {name.removesuffix(".to_out.0"): layer.out_features for name, layer in model.named_modules()
            if name.endswith("attn2.to_out.0") and isinstance(layer, nn.Linear)}
    return seeded(lambda _: {name: Eraser(width, cfg.rank) for name, width in wide.items()}, derive(loop.seed, "receler"))


def targeted(cfg: Receler, task: DiffusionTask, loop: Loop) -> Split:
    """Points of the original's trajectories, what is to be said there, what the original says, and where it sees the concept."""
    original, device = task.original.to(loop.settings.device), loop.settings.device
    prompts = [task.prompts["forget"][i % len(task.prompts["forget"])] for i in range(cfg.trajectories)]
    tokens, named = task.tokens(prompts), task.named_tokens(prompts)
    which = torch.tensor([task.concepts.index(one) if (one := task.named(prompt)) else 0 for prompt in prompts])
    points = visited(task, original, tokens, derive(loop.seed, "receler"), cfg.sampler_steps, cfg.start_guidance,
                     named=named, end=task.words(tokens)[0].end.cpu(), concept=which)
    empty = task.text(task.tokens([""]).to(device))

    def targets(batch: Batch) -> dict[str, Tensor]:
        cond, maps = task.attention_maps(original, batch.image, batch.t, task.text(batch.tokens))
        free = task.predict(original, batch.image, batch.t, empty.expand(len(batch), -1, -1))
        return {"target": esd_target(cond, free, cfg.eta), "cond": cond,
                "mask": shown_at(maps, batch.named, task.shape[1] / 4, cfg.threshold)}

    return answered(loop, points, original, targets)
