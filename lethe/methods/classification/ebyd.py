"""EBYD, expose before you defend: find a backdoor by making the model forget everything else, then remove it. Li et al. (2024),
"Expose Before You Defend", arXiv:2410.19427; trigger recovery of Wang et al. (2019), Neural Cleanse, IEEE S&P.

    1. exposure   θ_E ← θ_0 moved until accuracy on C ≤ floor: confusion  minimise ℓ(θ; x, y'), y' random wrong labels
                                                               ascent     minimise −ℓ(θ; x, y) (the paper's clean unlearning)
                                                               prune      the smallest weights to 0, more and more of them
                                                               perturb    θ + r·‖θ_l‖·g_l/‖g_l‖ per layer, growing r
    2. detection  for every label t the smallest trigger that brings C to t; target label = the smallest of all;
                  verdict: a backdoor when its size ≤ ratio · median size
    3. removal    trigger    minimise E_C ℓ(θ; x, y) + E_C ℓ(θ; trigger(x), y), the recovered trigger with true labels
                  prune      switch off the units least needed to bring the clean function of θ_E back, one by one, as long as
                             accuracy on C falls by no more than `drop`

C a few clean labelled examples, drawn from holdout; θ_0 the original, ℓ cross-entropy. Notes of the outcome: the verdict, the
label, the sizes, and accuracy and trigger success of θ_E.
Needs:    holdout, original.     Updates: every trainable parameter (trigger) or the weights of some units (prune).
Cost:     `trigger_steps` passes over C for every label, then a few epochs on C. Neither forget nor retain data.
Limits:   verdict and removal are separate: a model that is called clean is treated all the same.
Fails by: triggers that are large, differ by input, or bring different labels; few labels (the median is meaningless below 4).
Deviations: the label is not read from a histogram of the exposed model's answers, which clean models fill unevenly too. The
          verdict compares sizes with their median: with ten labels the robust deviation is small and calls clean models
          backdoored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, NonNegative, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.modules import NORMS, copied, evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split, pixels
from lethe.maths.importance import gradient_sum
from lethe.maths.neighbours import continuous
from lethe.train.loop import Loop, Term

Exposure = Literal["confusion", "ascent", "prune", "perturb"]   # how everything else is forgotten, see above


@config
class EBYD:
    """Options of EBYD."""

    exposure: Exposure = "confusion"   # how θ_E is made, see above [tested in test_ebyd]          [ours, digits; paper ascent]
    removal: Literal["trigger", "prune"] = "trigger"   # see above                           [ours, digits; paper prune]
    defence: Count = 60                # clean examples, |C|                                 [ours; paper 1 % of the training set]
    floor: Fraction = 0.2  # where it stops [only with exposure=ascent exposure_steps=10 exposure_lr=0.1] [official: 0.1–0.2]
    exposure_lr: Positive = 1e-3       # Adam [changes the notes] [ours, digits; official 1e-5]
    exposure_steps: Count = 400        # at most                                             [ours]
    trigger_steps: Count = 100         # of the search for each label                        [ours]
    sparsity: NonNegative = 0.1        # λ, weight of the trigger's size                     [ours, digits]
    ratio: Fraction = 0.6              # size below which, beside the median, it is a backdoor [changes the notes] [ours, digits]
    lr: Positive = 1e-3                # Adam, of the removal                                [ours, digits]
    epochs: Positive = 60.0            # passes over C of the removal                        [ours, digits]
    batch_size: Count = 64             # examples per step                                   [ours]
    drop: Fraction = 0.05              # accuracy on C that pruning may cost [only with removal=prune] [ours]
    mask_steps: Count = 200            # of learning which units are needed [only with removal=prune drop=0.1] [ours]


def verdict(sizes: Tensor, ratio: float) -> tuple[bool, int]:
    """(whether there is a backdoor, its label).  [K]; verdict([9, 2, 10, 8], 0.6) == (True, 1): 2 ≤ 0.6 · 8"""
    label = int(sizes.argmin())
    return bool(sizes[label] <= ratio * sizes.median()), label


Ask = Callable[[Tensor], Tensor]   # inputs [n, …] -> logits [n, K]


@dataclass(frozen=True)
class Trigger:
    """What brings inputs to a label: x' = (1 − mask)·x + mask·picture. `success`: the share of inputs it brings there."""

    label: int
    mask: Tensor
    picture: Tensor
    size: float
    success: float

    def on(self, x: Tensor) -> Tensor:
        return (1 - self.mask) * x + self.mask * self.picture


def recover_trigger(ask: Ask, x: Tensor, label: int, steps: int = 200, lr: float = 0.1, weight: float = 0.02) -> Trigger:
    """The smallest trigger found that brings the inputs to `label`: min over mask m and picture p of
    CE(f((1 − m)·x + m·p), label) + weight·Σ m.  x [n, …]; the mask is shared by the channels of an image
    """
    low, high = float(x.min()), float(x.max())
    shape = (1, *x.shape[2:]) if x.dim() == 4 else x.shape[1:]
    raw = torch.zeros(shape, device=x.device, requires_grad=True)      # mask ½ everywhere
    colour = torch.zeros(x.shape[1:], device=x.device, requires_grad=True)
    adam = torch.optim.Adam([raw, colour], lr=lr)
    target = torch.full((len(x),), label, device=x.device)
    for _ in range(steps):
        mask, picture = raw.sigmoid(), low + (high - low) * colour.sigmoid()
        loss = F.cross_entropy(ask((1 - mask) * x + mask * picture), target) + weight * mask.sum()
        adam.zero_grad()
        loss.backward(inputs=[raw, colour])
        adam.step()
    with torch.no_grad():
        mask, picture = raw.sigmoid(), low + (high - low) * colour.sigmoid()
        success = float((ask((1 - mask) * x + mask * picture).argmax(-1) == label).float().mean())
        return Trigger(label, mask, picture, float(mask.sum()), success)


def pruned_smallest(params: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The share of weights that is smallest, over all tensors together, set to zero.  name -> [shape]"""
    flat = torch.cat([p.detach().abs().flatten() for p in params.values()])
    count = round(share * flat.numel())
    threshold = flat.kthvalue(count).values if count else flat.new_tensor(-1.0)
    return {name: torch.where(p.detach().abs() <= threshold, torch.zeros_like(p), p.detach()) for name, p in params.items()}


def perturbed_up(params: Mapping[str, Tensor], gradients: Mapping[str, Tensor], radius: float) -> dict[str, Tensor]:
    """θ_l + radius · ‖θ_l‖ · g_l/‖g_l‖ for each tensor l: a step up the loss of the same relative size everywhere."""
    return {name: p.detach() + radius * p.detach().norm() * gradients[name] / gradients[name].norm().clamp(min=1e-12)
            for name, p in params.items()}


def units(model: nn.Module, head: str) -> dict[str, nn.Module]:
    """What can be switched off channel by channel: the norm layers where there are any, else convolutions and dense layers
    before the head."""
    named = dict(model.named_modules())
    norms: dict[str, nn.Module] = {name: m for name, m in named.items() if isinstance(m, NORMS) and m.affine}
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    return norms or {name: m for name, m in named.items() if isinstance(m, kinds) and name != head}


@contextmanager
def scaled(modules: Mapping[str, nn.Module], masks: Mapping[str, Tensor]) -> Any:
    """The outputs of the modules times their masks, channel by channel, while it is open.  masks name -> [C]"""
    def hook(mask: Tensor) -> Callable[..., Tensor]:
        return lambda module, args, out: out * (mask.view(1, -1, *[1] * (out.dim() - 2)) if out.dim() != 3 else mask)

    with ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_hook(hook(masks[name]))
            stack.callback(handle.remove)
        yield


def unit_masks(ask: Ask, modules: Mapping[str, nn.Module], x: Tensor, y: Tensor, steps: int = 200, lr: float = 0.2
               ) -> dict[str, Tensor]:
    """c ∈ [0, 1] per channel, from 1 by projected descent on the loss of clean data: units that are not needed to bring the
    clean function back carry the backdoor (Li et al. 2023, arXiv:2305.14876).  name -> [C]
    """
    masks = {name: torch.ones(len(m.get_parameter("weight")), device=x.device, requires_grad=True) for name, m in modules.items()}
    sgd = torch.optim.SGD(list(masks.values()), lr=lr, momentum=0.9)
    with scaled(modules, masks):
        for _ in range(steps):
            loss = F.cross_entropy(ask(x), y)
            sgd.zero_grad()
            loss.backward(inputs=list(masks.values()))
            sgd.step()
            with torch.no_grad():
                for mask in masks.values():
                    mask.clamp_(0, 1)
    return {name: mask.detach() for name, mask in masks.items()}


@method(needs={"holdout", "original"}, uses={"head", "inputs", "labels", "nll", "outputs", "relabel"}, mechanism="tuning")
def run(cfg: EBYD, task: ClassificationTask, loop: Loop) -> Outcome:
    continuous(task.holdout.batch([0]))   # tokens are refused before any work
    order = torch.randperm(len(task.holdout), generator=loop.generator("defence"))[: cfg.defence]
    clean = task.holdout.subset(order.numpy(), "defence")
    before = copied(loop.start(), trainable=False)
    everything = loop.on_device(clean.batch(range(len(clean))))
    x, y = pixels(everything.x), everything.y

    def ask(m: nn.Module, inputs: Tensor) -> Tensor:
        return task.outputs(m, everything.replace(x=inputs))

    def accuracy(m: nn.Module) -> float:
        with evaluating(m):
            return float((ask(m, x).argmax(-1) == y).float().mean())

    exposed = copied(exposure(cfg, task, loop, clean, accuracy), trainable=False)
    with evaluating(before):
        classes = ask(before, x[:1]).shape[-1]
    with torch.enable_grad():
        found = [recover_trigger(lambda v: ask(before, v), x, label, cfg.trigger_steps, weight=cfg.sparsity)
                 for label in range(classes)]
    sizes = torch.tensor([trigger.size for trigger in found])
    backdoored, label = verdict(sizes, cfg.ratio)
    trigger = found[label]
    with evaluating(exposed):
        survives = float((ask(exposed, trigger.on(x)).argmax(-1) == label).float().mean())
    loop.notes.append(f"verdict: {'backdoored' if backdoored else 'no backdoor found'}; smallest trigger for label {label}, size "
                      f"{trigger.size:.3g} of median {float(sizes.median()):.3g}, success {trigger.success:.2f}")
    loop.notes.append(f"exposed by {cfg.exposure}: accuracy {accuracy(exposed):.2f} on {len(clean)} clean examples of holdout, "
                      f"the trigger still works on {survives:.2f} of them")
    model = loop.start()
    if cfg.removal == "trigger":
        relearn(cfg, task, loop, model, clean, trigger)
    else:
        masks = unit_masks(lambda v: ask(exposed, v), units(exposed, task.head), x, y, cfg.mask_steps)
        values, count = pruned_units(copied(model, trainable=False), masks, accuracy, accuracy(before) - cfg.drop)
        loop.assign(model, values)
        loop.notes.append(f"switched off {count} of {sum(len(mask) for mask in masks.values())} units")
    return loop.finish(model)


def exposure(cfg: EBYD, task: ClassificationTask, loop: Loop, clean: Split, accuracy: Callable[[nn.Module], float]) -> nn.Module:
    """A copy of the original moved until its accuracy on the clean examples is at most the floor; ruined on purpose, so it is a
    fresh model to the loop: no watchdog takes it back."""
    model = loop.start(task.copy_of_original())
    moving = loop.selected(model)
    start = {name: p.detach().clone() for name, p in moving.items()}
    if cfg.exposure in ("confusion", "ascent"):
        sign = -1.0 if cfg.exposure == "ascent" else 1.0
        term = Term(clean, lambda m, batch: sign * task.nll(m, batch), prepare=task.relabel if sign > 0 else None)
        for _ in range(0, cfg.exposure_steps, 5):
            loop.minimise(model, {"expose": term}, lr=cfg.exposure_lr, steps=min(5, cfg.exposure_steps), optimiser="adam",
                          weight_decay=0.0, batch_size=cfg.batch_size)
            if accuracy(model) <= cfg.floor:
                break
        return model
    batches = loop.drawn(clean, cfg.batch_size, "exposure")
    up = gradient_sum(model, moving, batches, task.nll) if cfg.exposure == "perturb" else {}
    for share in torch.linspace(0.02, 0.98, 49).tolist():
        values = perturbed_up(start, up, share) if up else pruned_smallest(start, share)
        with torch.no_grad():
            for name, p in moving.items():
                p.copy_(values[name])
        if accuracy(model) <= cfg.floor:
            break
    return model


def relearn(cfg: EBYD, task: ClassificationTask, loop: Loop, model: nn.Module, clean: Split, trigger: Trigger) -> None:
    """Teach the true labels with and without the recovered trigger."""
    def loss(m: nn.Module, batch: Batch) -> Tensor:
        return task.nll(m, batch.replace(x=trigger.on(pixels(batch.x))))

    loop.minimise(model, {"clean": Term(clean, task.nll), "triggered": Term(replace(clean, name="triggered"), loss)}, lr=cfg.lr,
                  epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser="adam", weight_decay=0.0)


def pruned_units(model: nn.Module, masks: Mapping[str, Tensor], accuracy: Callable[[nn.Module], float], least: float
                 ) -> tuple[dict[str, Tensor], int]:
    """Units of `model` switched off, in place, by ascending mask as long as accuracy stays; (changed parameters, how many)."""
    named = dict(model.named_parameters())
    changed: dict[str, Tensor] = {}
    for count, (_, name, place) in enumerate(sorted((float(v), n, i) for n, mask in masks.items() for i, v in enumerate(mask))):
        parts = [part for part in (f"{name}.weight", f"{name}.bias") if part in named]
        kept = {part: named[part][place].clone() for part in parts}
        for part in parts:
            named[part][place] = 0
        if accuracy(model) < least:
            for part in parts:
                named[part][place] = kept[part]
            return changed, count
        changed |= {part: named[part] for part in parts}
    return changed, sum(len(mask) for mask in masks.values())
