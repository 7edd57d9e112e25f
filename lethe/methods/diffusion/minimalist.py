"""Minimalist erasure: leave out units of a drawing network, chosen by what becomes of its finished pictures alone. Zhang, Jin,
Dong, Wu, Torr, Khakzar, Stegmaier & Kawaguchi (2025), arXiv:2507.13386 (ICML 2025).

    L(λ) = E_{c∈F, ε} ‖G_m(ε, c) − G_0(ε, a)‖²  +  β E_{c∈K, ε} ‖G_m(ε, c) − G_0(ε, c)‖²          (means over entries)
    m = clip(1.2 σ((logit + λ) / 0.83) − 0.1, 0, 1),    logit = log(u + ½) − log(3/2 − u),    u ~ U(0, 1)
    in the end  m = 1 where λ ≥ 0, else 0, multiplied into the weights

G(ε, c) what the sampler ends with that starts from the noise ε, G_0 that of the original, G_m that of the original with its units
multiplied by m, F prompts with the concept, a the same with an anchor in its place, or the empty prompt, K kept prompts, β ≥ 0.
Units are channels inside a feed-forward layer (ff), what modulates the text stream (norm), or heads of attention (heads).
Needs:    original, and prompts; no pictures.     Updates: λ, and in the end the weights behind a unit that is left out: to 0.
Cost:     a step: two samplings by the original, two with gradients; of several sampler steps each is worked out again on the way
          back, so that memory holds one step and the points of the trajectories.
Limits:   where no λ falls below 0 the weights are the original's, bit for bit.
Fails by: leaving out what other prompts need. On the UNet of the preset shapes_erase, defaults, watchdog off (3 originals, 64
          pictures with the concept, 60 of kept prompts and 60 outside): share without the concept 0.56, 0.92 and 0.70 (originals
          0.20, 0.08, 0.03), kept shapes right 0.70, 0.53 and 0.45 (0.92, 0.97, 0.93), outside 0.85, 0.47 and 0.88 (0.92, 0.93,
          0.98), with 165, 180 and 194 of 640 channels left out. The first with anchor square: 0.58, 0.78, 0.80. A trained flow
          was not measured. λ near 3 gets a gradient at 3 % of draws, so few steps leave out few units.
Deviations: read from the official code; of the paper itself the abstract and a summary alone. There the pairs of pictures are
          made once, from one noise each, thinned out by CLIP, and edited by FlowEdit for FLUX; here the original draws both from
          the same noise, anew at each step. u is drawn once for a trajectory; there anew at every call of the network, and once
          more on the way back, whose gradients are then those of other masks. Every output layer of joint attention has gates of
          its own (one for both streams there). The single blocks of FLUX stay whole, but for whose heads there is a gate there,
          at rate 0. Left out: noise in the place of what is left out (0 there), and gates of all linear layers of a UNet, which
          has here those of its transformer blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import evaluating, hooked
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.maths.losses import squared_distance
from lethe.train.erasing import ADDED, joined, one_anchor, placed, rests, taken
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.where.names import Names

Unit = Literal["ff", "norm", "heads"]
BEHIND: dict[Unit, tuple[str, ...]] = {   # the layers inside transformer blocks whose weights hold a unit
    "ff": (".net.2",), "norm": (".norm1_context.linear",), "heads": (".to_out.0", ".to_add_out")}
LOW, HIGH, HEAT, EPS = -0.1, 1.1, 0.83, 0.5   # of the hard concrete distribution                      [official code, FLUX]


@config
class Minimalist:
    """Options of minimalist erasure."""

    anchor: str = ""              # words in its place; empty: its replacement, or none [e.g. square] [only with start=0.01]
    #                                                                                                       [official code]
    beta: NonNegative = 0.1       # β, of kept prompts [only with start=0.01]                               [official code]
    units: tuple[Unit, ...] = ("ff", "norm")   # what may be left out [tested in test_minimalist]           [official code]
    start: Positive = 3.0         # λ at first; below 2 some units are dimmed at once                       [official code]
    lr: Positive = 0.5            # AdamW [only with start=0.6]                                             [official code]
    steps: Count = 100            # optimiser steps [only with start=0.01]                                  [official code]
    batch_size: Count = 2         # prompts of each kind per step [only with start=0.01]                    [official code]
    sampler_steps: Count = 5      # steps of a trajectory [only with start=0.01]                            [official code]
    start_guidance: NonNegative = 1.0   # guidance of the trajectories [only with start=0.01]               [official code]


def concrete(lamb: Tensor, u: Tensor) -> Tensor:
    """m, the hard concrete distribution.  [units] ×2 -> [units]

    u = ½: logit 0; λ = 0: σ(0) = ½, 0.6 − 0.1 = 0.5; λ = 3: σ(3.61) = 0.974, 1.07, so 1; λ = −3: −0.07, so 0.
    """
    logit = (u + EPS).log() - (1 - u + EPS).log()
    return ((HIGH - LOW) * torch.sigmoid((logit + lamb) / HEAT) + LOW).clamp(0, 1)


class Gate(nn.Module):
    """λ of the units that a linear layer holds: groups of `size` of its columns, or of its rows."""

    def __init__(self, layer: nn.Linear, rows: bool, size: int, start: float) -> None:
        super().__init__()
        self.rows, self.size = rows, size
        self.lamb = nn.Parameter(torch.full(((layer.out_features if rows else layer.in_features) // size,), start))
        self.drawn: Tensor | None = None

    def draw(self) -> None:
        """m from now on, in training mode."""
        self.drawn = concrete(self.lamb, torch.rand(self.lamb.shape).to(self.lamb))

    def mask(self) -> Tensor:
        """m of each column or row: drawn, or in eval mode 0 and 1."""
        whole = (self.lamb >= 0).to(self.lamb) if self.drawn is None or not self.training else self.drawn
        return whole.repeat_interleave(self.size)

    def left(self, layer: nn.Linear) -> dict[str, Tensor]:
        """The layer's parameters times m."""
        m = self.mask().to(layer.weight)
        weight = {"weight": layer.weight * (m.unsqueeze(1) if self.rows else m)}
        return weight | {"bias": layer.bias * m} if self.rows and layer.bias is not None else weight

    def hook(self, layer: nn.Linear) -> Any:
        """Inside, the layer is multiplied by m."""
        if self.rows:
            return layer.register_forward_hook(lambda _, __, out: out * self.mask().to(out))
        return layer.register_forward_pre_hook(lambda _, args: (args[0] * self.mask().to(args[0]), *args[1:]))


def layers_of(network: nn.Module, units: Sequence[Unit]) -> dict[str, tuple[nn.Linear, bool, int]]:
    """The linear layers inside transformer blocks that hold units, by name: with whether these are rows, and their size."""
    found: dict[str, tuple[nn.Linear, bool, int]] = {}
    for name, module in network.named_modules():
        for unit in units:
            if isinstance(module, nn.Linear) and "transformer_blocks." in name and name.endswith(BEHIND[unit]):
                attention: Any = network.get_submodule(name.rsplit(".to_", 1)[0])
                found[name] = module, unit == "norm", module.in_features // attention.heads if unit == "heads" else 1
    return found


@contextmanager
def by_steps(model: nn.Module) -> Iterator[None]:
    """Inside, the model keeps nothing of a call but what it was asked, and works it out again where a gradient needs it."""
    plain = model.forward
    model.forward = lambda *given, **options: checkpoint(plain, *given, use_reentrant=False, **options)
    try:
        yield
    finally:
        del model.forward


def sound(cfg: Minimalist, task: DiffusionTask) -> None:
    """RequestError for two anchors, or where the network has no such units."""
    one_anchor(cfg, task)
    if not layers_of(task.original, cfg.units):
        raise RequestError(f"minimalist leaves out units of transformer blocks, and a {type(task.original).__name__} has none of "
                           f"method.units = {list(cfg.units)}; nothing was started. Choose others of {list(BEHIND)}, or another "
                           "method, e.g. esd.")


@method(needs={"original"}, mechanism="mask", check=sound,
        uses={"concepts", "denoise", "prompts", "rest", "text", "tokens"})
def run(cfg: Minimalist, task: DiffusionTask, loop: Loop) -> Outcome:
    original, prompts, kept = task.original.to(loop.device), task.prompts["forget"], task.prompts.get("keep", []) or [""]
    holding = tuple(f"{name}.{part}" for name in layers_of(original, cfg.units) for part in ("weight", "bias"))
    model = loop.start(where=Names(holding))
    layers = layers_of(model, cfg.units)
    gates = {name: Gate(*layer, cfg.start) for name, layer in layers.items()}
    moves = joined(loop, model, gates.values())

    def drawn(network: nn.Module, tokens: Tensor, seed: int) -> Tensor:
        *_, (_, x) = task.denoise(network, task.text(tokens), seed, cfg.sampler_steps, cfg.start_guidance)
        return x

    def loss(m: nn.Module, batch: Batch) -> Tensor:
        seed = int(torch.randint(2**31, ()))   # the loop seeds every step
        with evaluating(original):
            aim = drawn(original, batch.aim, seed)
        for gate in gates.values():
            gate.draw()
        return squared_distance(drawn(m, batch.tokens, seed), aim)

    anchors = rests(task, prompts, cfg.anchor) if placed(task, cfg.anchor) else [""]
    terms = {"erase": Term(asked(task, prompts, anchors, cfg.batch_size), loss, moves=moves)}
    if cfg.beta:
        terms["keep"] = Term(asked(task, kept, kept, cfg.batch_size), loss, cfg.beta, moves=moves)
    lean = by_steps(model) if cfg.sampler_steps > 1 else nullcontext()   # of a single step nothing would be saved
    with hooked(*(gate.hook(layers[name][0]) for name, gate in gates.items())), lean:
        loop.minimise(model, terms, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size, optimiser="adamw", weight_decay=0.01)
    delattr(model, ADDED)
    out = sum(int((gate.lamb < 0).sum()) for gate in gates.values())
    loop.note(f"{out} of {sum(len(gate.lamb) for gate in gates.values())} units of {len(gates)} layers are left out")
    with torch.no_grad():
        left = {f"{name}.{part}": p for name, gate in gates.items() for part, p in gate.eval().left(layers[name][0]).items()}
    return loop.finish(loop.assign(model, left))


def asked(task: DiffusionTask, prompts: Sequence[str], aims: Sequence[str], count: int) -> Split:
    """Prompts, and those whose pictures are to come of them: columns tokens, aim; `t` so that nothing is drawn for them."""
    count = max(len(prompts), count)
    return Split({"tokens": taken(task, prompts, count), "aim": taken(task, aims, count),
                  "t": torch.zeros(count, dtype=torch.long)}, "prompts")
