"""GS-LoRA and GS-LoRA++: forget request after request by small low-rank changes of few blocks. Zhao, Ni, Fan et al. (2024),
"Continual Forgetting for Pre-trained Vision Models", CVPR 2024, arXiv:2403.11530; ++: arXiv:2501.09705.

    L(A, B) = E_{x∈R'} ℓ(θ; x)  +  β·E_{x∈F_t} [BND − ℓ(θ; x)]₊  +  α·Σ_g ‖(A, B)_g‖,    W_l = W_l⁰ + B_l·A_l
    ++        + w_r·E_{x∈R'} KL(p_y ‖ p_θ(x))  +  w_f·E_{x∈F_t} [BND_p − KL(p_y ‖ p_θ(x))]₊

F_t forget set of request t, R' replayed part of the retain set, ℓ the family's loss (classes: cross-entropy; text: its mean over
the answer's tokens), BND = c·log K and BND_p = c_p·log K (K classes, or tokens of the vocabulary: log K is the loss of a
uniform guess), A_l [r, in], B_l [out, r] the changes of the linear layers in the feed-forward part of the blocks, group g all of
one block, p_y softmax of the original's mean logits on class y. The last term is a proximal step after each optimiser step: every
group's norm shrinks by lr·α, to an exact zero, once the share `settle` of the passes is done. After a request B·A is added to W,
and the next begins with A drawn anew and B = 0.
sequence: each class of F is a request, in order of its number (`classes`; of text, which has none, all of F), or all of F is one.
Needs:    forget, retain; original for ++.     Updates: the linear layers of the feed-forward parts.
Cost:     one forward/backward on F_t and one on R' per step; 2·r·(in + out) weights move per block.
Limits:   α large switches every group off: the original. Without ++ and with β = 0 it fine-tunes adapters on R'.
Fails by: what was requested earlier is not held down while later requests are served: check all forgotten classes at the end.
          Where another `where` is chosen, its parameters move instead of the changes and nothing is shrunk. On text no block is
          switched off: a step of AdamW moves a group of n weights by lr·√n, beside which lr·α is small (the tiny Llama of the
          tests changes all three blocks for α from 0 to 10). It forgets there all the same.
Deviations: [·]₊ per example, not of the batch mean; bounds relative to log K instead of 105–110, which belong to scaled logits of
          face recognition; proximal shrinkage instead of the penalty's gradient, which never reaches zero. The moving average of
          the weights is the `average` modifier. Language models are ours: the papers forget classes of pictures.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lethe.core.adaptable import matrices
from lethe.core.alike import class_labels
from lethe.core.config import Count, Fraction, Natural, NonNegative, Positive, config
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.maths.losses import cross_entropy, kl
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.where import Draws, Selection

ATTENTION = re.compile(r"(^|[._])(attn|attention|mix|qkv|[qkvo]_proj|out|query|key|value|head|classifier)([._]|$)")


@config
class GSLoRA:
    """Options of GS-LoRA and GS-LoRA++."""

    sequence: Literal["classes", "once"] = "classes"   # what a request is                   [paper]
    layers: tuple[str, ...] = ()  # name ends; none: all outside attention, head [tested in test_gs_lora] [paper: FFN]
    rank: Count = 8                    # r                                                   [official code]
    beta: NonNegative = 0.15           # β, weight of the bounded ascent                     [official code]
    bound: Positive | None = None      # c; loss on F, in log K, that is enough; null: 4 with classes, text 1   [ours]
    alpha: NonNegative = 1e-2          # α; larger switches more blocks off                  [ours, digits ViT; official 1e-4]
    settle: Fraction = 0.2             # share of the passes before anything is shrunk       [official code]
    prototypes: bool = False           # ++: the two terms with class prototypes             [paper, ++]
    forget_prototype: NonNegative = 0.01   # w_f [only with prototypes=true] [official code, ++]
    retain_prototype: NonNegative = 0.01   # w_r [only with prototypes=true] [ours, ++]
    prototype_bound: Positive = 8.0  # c_p [only with prototypes=true forget_prototype=1.0] [official: 18, absolute]
    replay: Natural = 0                # retained examples per class (of text: in all) that are replayed; 0: all  [paper: few]
    lr: Positive = 1e-2                # AdamW                                               [official code]
    epochs: Positive = 10.0            # passes over R' per request                          [ours, digits ViT; official 100]
    batch_size: Count = 64             # examples of each term per step                      [ours; official 48]
    optimiser: Literal["sgd", "adamw"] = "adamw"   # update rule [official code]


class Change(nn.Module):
    """W ↦ W + B·A, with A [r, in] and B [out, r]."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(weight.new_zeros(rank, weight.shape[1], dtype=torch.float32))
        self.b = nn.Parameter(weight.new_zeros(weight.shape[0], rank, dtype=torch.float32))

    @torch.no_grad()
    def begin(self, rng: torch.Generator) -> None:
        """A uniform in ±√(6/(51·in)), which is Kaiming with a = √50; B zero."""
        limit = (6 / (51 * self.a.shape[1])) ** 0.5
        self.a.copy_((2 * torch.rand(self.a.shape, generator=rng) - 1) * limit)
        self.b.zero_()

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.b @ self.a).to(weight.dtype)


class Changes:
    """A `where` for the loop: these layers get a change each, and only the changes move."""

    def __init__(self, names: Sequence[str], rank: int) -> None:
        self.names, self.rank = names, rank

    def select(self, model: nn.Module, task: Task, loop: Draws) -> Selection:
        for name in self.names:
            layer = model.get_submodule(name)
            parametrize.register_parametrization(layer, "weight", Change(layer.get_parameter("weight"), self.rank))
        return Selection({name: p for name, p in model.named_parameters() if name.endswith((".0.a", ".0.b"))})


def shrunk(tensors: Sequence[Tensor], amount: float) -> list[Tensor]:
    """All tensors of a group times max(0, 1 − amount/‖group‖): the proximal step of amount·‖group‖.

    (3), (4) by 1: norm 5, factor 0.8: (2.4), (3.2). By 5 or more: zero.
    """
    norm = torch.stack([t.square().sum() for t in tensors]).sum().sqrt()
    factor = (1 - amount / norm.clamp(min=1e-30)).clamp(min=0)
    return [factor * t for t in tensors]


class Shrink:
    """A `combine` for the loop: one step along the sum of the terms, then every group shrinks by `amount`."""

    def __init__(self, groups: Sequence[Sequence[Tensor]], amount: float) -> None:
        self.groups, self.amount = groups, amount

    def step(self, terms: Sequence[str], gradients: Callable[[Sequence[str]], list[Tensor]],
             apply: Callable[[list[Tensor]], None]) -> None:
        apply(gradients(terms))
        with torch.no_grad():
            for group in self.groups:
                for p, value in zip(group, shrunk(group, self.amount), strict=True):
                    p.copy_(value)

    def __str__(self) -> str:   # names the plan of a run, so that a checkpoint is known again
        return f"{len(self.groups)} groups by {self.amount:g}"


def short_of(loss: Tensor, bound: float) -> Tensor:
    """[BND − ℓ]₊.  [n] -> [n]; (1, 5) with bound 3: (2, 0)"""
    return F.relu(bound - loss)


def usual_bound(forget: Split) -> float:
    """c: four times the loss of a uniform guess where classes leave, and that loss itself where text does."""
    return 1.0 if class_labels(forget) is None else 4.0


def check(cfg: GSLoRA, task: Task) -> None:
    """RequestError for prototypes of classes where there are none."""
    if cfg.prototypes and class_labels(task.forget) is None:
        raise RequestError(f"prototypes=true holds the answers of each class, and a {task.family} task has none; nothing was "
                           "started. Leave method.prototypes out.")


@method(needs={"forget", "retain", "original"}, uses={"likelihood", "nll", "outputs"}, mechanism="ascent", check=check)
def run(cfg: GSLoRA, task: Task, loop: Loop) -> Outcome:
    names = changed_layers(cfg, task)
    model = loop.start(where=Changes(names, cfg.rank))
    places = {f"{name}.parametrizations.weight.0": name for name in names}
    changes = {places[place]: part for place, part in model.named_modules() if isinstance(part, Change) and place in places}
    groups: dict[str, list[nn.Parameter]] = defaultdict(list)
    for name, change in changes.items():
        groups[block(name)] += [change.a, change.b]
    replayed, scale = replay(cfg, task.retain, loop), float(torch.tensor(float(choices(task, loop))).log())
    means = prototypes(task, loop) if cfg.prototypes else None
    enough = scale * (cfg.bound or usual_bound(task.forget))

    def keep(m: nn.Module, batch: Batch) -> Tensor:
        if means is None:
            return task.nll(m, batch)
        logits = task.outputs(m, batch)
        return cross_entropy(logits, batch.y) + cfg.retain_prototype * kl(means[batch.y], logits)

    def leave(m: nn.Module, batch: Batch) -> Tensor:
        if means is None:
            return cfg.beta * short_of(task.nll(m, batch), enough)
        logits = task.outputs(m, batch)
        loss = cfg.beta * short_of(cross_entropy(logits, batch.y), enough)
        return loss + cfg.forget_prototype * short_of(kl(means[batch.y], logits), cfg.prototype_bound * scale)

    for number, request in enumerate(requests(cfg, task.forget)):
        for name, change in changes.items():
            change.begin(loop.generator("gs_lora", number, name))
        terms = {"retain": Term(replayed, keep), "forget": Term(request, leave)}
        for share, combine in ((cfg.settle, "sum"), (1 - cfg.settle, Shrink(list(groups.values()), cfg.lr * cfg.alpha))):
            loop.minimise(model, terms, lr=cfg.lr, epochs=share * cfg.epochs, batch_size=cfg.batch_size,
                          optimiser=cfg.optimiser, combine=combine)
        norms = {key: float(torch.cat([p.detach().flatten() for p in group]).norm()) for key, group in groups.items()}
        off = [key for key, norm in norms.items() if norm <= 1e-3 * max(norms.values())]
        loop.notes.append(f"request {number + 1}, {request.name}: {len(groups) - len(off)} of {len(groups)} blocks changed")
        merge(model, changes)
    return loop.finish(plain(task, loop, model, list(changes)) if changes else model)


def plain(task: Task, loop: Loop, model: nn.Module, names: Sequence[str]) -> nn.Module:
    """The merged model as a copy of the original, whose parameters keep their order."""
    for name in names:
        parametrize.remove_parametrizations(model.get_submodule(name), "weight", leave_parametrized=True)
    twin = task.copy_of_original().to(loop.settings.device)
    twin.load_state_dict(model.state_dict())
    return twin


def changed_layers(cfg: GSLoRA, task: Task) -> list[str]:
    """Names of the linear layers that get a change: of those that take adapters, the ones outside attention."""
    model = task.original
    if any(hasattr(module, "base_layer") for module in model.modules()):
        raise RequestError("gs_lora adds its changes to whole weights, and this model came as an adapter on its base, which "
                           "alone comes back; nothing was started. Merge it first (PeftModel.merge_and_unload), or choose npo.")
    linear = [name for name in matrices(model) if model.get_submodule(name).get_parameter("weight").dim() == 2]
    usual = {name for name in task.adaptable(model).layers if not ATTENTION.search(name)}
    chosen = [n for n in linear if (n.endswith(cfg.layers) if cfg.layers else n in usual)]
    if not chosen:
        raise RequestError(f"method.layers = {list(cfg.layers)} match no linear layer outside the head, so nothing could change; "
                           f"nothing was started. Linear layers: {', '.join(linear[:6]) or 'none'}.")
    return chosen


def choices(task: Task, loop: Loop) -> int:
    """K, the number of answers that the model chooses from."""
    original = task.original.to(loop.settings.device)
    with evaluating(original):
        first = next(iter(loop.drawn(task.forget.subset([0], "forget"), 1, "gs_lora", "choices")))
        return task.outputs(original, first).shape[-1]


def block(name: str) -> str:
    """The group of a layer: blocks.3.fc1 -> blocks.3; without a number, itself."""
    found = re.match(r"(.*?\.\d+)\.", name)
    return found.group(1) if found else name


def requests(cfg: GSLoRA, forget: Split) -> list[Split]:
    """The forget set cut into requests."""
    y = class_labels(forget)
    if cfg.sequence == "once" or y is None:
        return [forget]
    return [forget.subset((y == k).numpy(), f"class {k}") for k in y.unique().tolist()]


def replay(cfg: GSLoRA, retain: Split, loop: Loop) -> Split:
    """The part of the retain set that is replayed: at most `replay` examples of each class, or in all."""
    if not cfg.replay:
        return retain
    order = torch.randperm(len(retain), generator=loop.generator("gs_lora", "replay"))
    labels = class_labels(retain)
    y = torch.zeros(len(retain)) if labels is None else labels[order]
    chosen = [order[(y == k).nonzero().squeeze(1)[: cfg.replay]] for k in y.unique().tolist()]
    return retain.subset(torch.cat(chosen).sort().values.numpy(), "retain")


def prototypes(task: Task, loop: Loop) -> Tensor:
    """The original's mean logits on each class of F and R.  -> [K, K]"""
    original, k = task.original.to(loop.settings.device), choices(task, loop)
    sums, counts = torch.zeros(k, k, dtype=torch.float64), torch.zeros(k, 1, dtype=torch.float64)
    with evaluating(original):
        for split in (task.forget, task.retain):
            for batch in loop.drawn(split, 256, "gs_lora", split.name):
                sums.index_add_(0, batch.y.cpu(), task.outputs(original, batch).double().cpu())
                counts += torch.bincount(batch.y.cpu(), minlength=k).unsqueeze(1)
    return (sums / counts.clamp(min=1)).float().to(loop.settings.device)


@torch.no_grad()
def merge(model: nn.Module, changes: dict[str, Change]) -> None:
    """W⁰ ← W⁰ + B·A and B ← 0: the model answers as before, and the next request starts from it."""
    for name, change in changes.items():
        weight = model.get_submodule(f"{name}.parametrizations.weight")   # of the layer, as torch keeps it
        weight.get_parameter("original").data = weight().clone()   # its old storage may be the original's
        change.b.zero_()
