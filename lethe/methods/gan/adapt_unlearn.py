"""Adapt-then-Unlearn: let the generator learn what is undesired, then train it away from there, on its own desired samples.
Tandon, Das & Prathosh (2025), "Adapt then Unlearn: Exploring Parameter Space Semantics for Unlearning in Generative Adversarial
Networks", TMLR 2025, arXiv:2309.14054.

    adapt     θ_N = argmin V(θ, φ; D_N) + λ Σ_i F_i (θ_i − θ_0,i)²,    F_i = E_z (∂/∂θ_i softplus(−D(G(z))))²
    unlearn   min_θ max_φ V(θ, φ; D_P) + γ·L(d(θ)),    L = exp(−α d) (el2),  1/d (il2),  −d (nl2)
    d(θ) = mean over the n adapted generators and the T tensors of mean (θ_t − θ_N,t)², divided by its value at θ_0

D_N and D_P: samples of the original generator that the user's classifier calls undesired and desired; V the adversarial losses
of the family; θ generator, φ discriminator, both from the original; F diagonal Fisher information of the generator, seen through
the discriminator. No real data are asked for: the user's feedback on samples is all.
Needs:    original.     Updates: generator and discriminator.
Cost:     `feedback` samples, `adapt_steps` + `unlearn_steps` steps of each player; the adapted generators are kept as tensors.
Limits:   γ = 0 is fine-tuning on desired samples; d = 1 at θ_0; nl2 is unbounded below.
Fails by: losing modes: it learns from its own samples, and what these do not show is gone (audit: samples, scores). A classifier
          that reads wrongly teaches the wrong thing. Too large a γ leaves where samples are good. On digits with a small
          GAN the push adds nothing to fine-tuning (presets/digits_gan.yaml); nine in ten gone at a distance a third larger, the
          claim of the paper, holds for neither of the two small GANs of the tests.
Deviations: d is divided by its value at the start, so that γ and α do not depend on the number of parameters (the official code
          has 100·exp(−γ d)); it multiplies by n where a mean is meant. The family's loss instead of StyleGAN2's R1 and path
          length. The optimiser starts afresh for each of the n adapted generators. The product is the last generator, or its
          average with average=ema, which the official code keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.engine import Term
from lethe.core.families.gan import GanTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.train.loop import Loop

Repulsion = Literal["el2", "il2", "nl2"]
FEWEST = 2   # undesired samples, and desired ones, without which nothing can be learned       [ours]


@config
class AdaptUnlearn:
    """Options of Adapt-then-Unlearn."""

    repulsion: Repulsion = "el2"       # L                                                   [official code]
    gamma: NonNegative = 20.0          # γ; larger leaves faster, 0 is fine-tuning           [ours, four corners]
    alpha: Positive = 1.0              # of el2: how fast the push fades                     [ours]
    ewc: NonNegative = 1.0             # λ [tested in test_adapt_unlearn]                    [ours; official up to 5e8]
    feedback: Count = 5000             # samples that are shown to the classifier            [official code]
    adapted: Count = 3                 # n, generators kept on the way of adapting           [ours]
    adapt_steps: Count = 300           # of each player on undesired samples                 [ours; official 2000]
    unlearn_steps: Count = 600         # of each player on desired samples                   [ours; official 3000]
    fisher_samples: Count = 64         # samples of F [tested in test_adapt_unlearn]         [official code: few]
    lr: Positive = 1e-3                # of both players                                     [ours, four corners; official 2e-3]
    batch_size: Count = 64             # samples per step                                    [ours; official 16]
    optimiser: Literal["adam", "sgd"] = "adam"   # update rule                               [official code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


def repelled(d: Tensor, repulsion: Repulsion, alpha: float = 1.0) -> Tensor:
    """L(d).  [] -> []

    d = 2: el2 with α = ½ is e^{−1} = 0.36788, il2 ½, nl2 −2.
    """
    return torch.exp(-alpha * d) if repulsion == "el2" else 1 / d if repulsion == "il2" else -d


def distance(theta: Sequence[Tensor], others: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean over adapted generators and tensors of the mean squared difference.  -> []

    One tensor (1, 1), adapted (0, 0) and (3, 1): (1 + 2)/2 = 1.5.
    """
    each = [torch.stack([(p - q).square().mean() for p, q in zip(theta, other, strict=True)]).mean() for other in others]
    return torch.stack(each).mean()


@method(needs={"original"}, uses={"discriminator_loss", "imagine", "generator_loss", "latents", "players", "read", "undesired"},
        mechanism="ascent")
def run(cfg: AdaptUnlearn, task: GanTask, loop: Loop) -> Outcome:
    bad, good = feedback(cfg, task, loop)
    with loop.damage():   # it is made worse on purpose, and then taken back
        adapted = negative(cfg, task, loop, bad)
    model = loop.start()
    start = float(distance([p.detach() for p in generators(task, loop, model)], adapted))
    if not start > 0:
        raise RequestError("adapting left the generator where it was, so there is nothing to be repelled from; raise "
                           "method.adapt_steps or method.lr.")

    def repulsion(m: nn.Module, _: float) -> Tensor:
        return cfg.gamma * repelled(distance(generators(task, loop, m), adapted) / start, cfg.repulsion, cfg.alpha)

    played(cfg, task, loop, model, good, cfg.unlearn_steps, repulsion if cfg.gamma else None)
    return loop.finish(model)


def feedback(cfg: AdaptUnlearn, task: GanTask, loop: Loop) -> tuple[Split, Split]:
    """The original's samples that the classifier calls undesired, and the others. RequestError when either are too few."""
    if not task.undesired:
        raise RequestError("every class of the forget set is shown by retained data, too, so no sample of the generator is "
                           "undesired; nothing was started. Forget a whole class: forget: {label: 3}.")
    original = task.original
    device = next(original.parameters()).device
    with evaluating(original):
        drawn = [task.imagine(original, z.to(device)) for z in task.latents(cfg.feedback, loop.seed).split(1024)]
        seen = torch.cat([task.read(part).argmax(1) for part in drawn]).cpu()
    samples = torch.cat(drawn).cpu()
    marked = torch.isin(seen, torch.tensor(task.undesired))
    loop.notes.append(f"{int(marked.sum())} of {len(marked)} samples of the original are undesired")
    for count, what in ((int(marked.sum()), "undesired"), (int((~marked).sum()), "desired")):
        if count < FEWEST:
            raise RequestError(f"the classifier calls {count} of {len(marked)} samples {what}, and {FEWEST} are needed to learn "
                               "from, so nothing was started. Raise method.feedback, or check that the generator shows the class "
                               "and the classifier can read it.")
    bad, good = (Split({"x": samples[which], "y": seen[which]}, name)
                 for which, name in ((marked, "undesired"), (~marked, "desired")))
    return bad, good


def negative(cfg: AdaptUnlearn, task: GanTask, loop: Loop, bad: Split) -> list[list[Tensor]]:
    """The tensors of the n generators on the way of adapting to undesired samples."""
    model = loop.start()
    if not generators(task, loop, model):
        raise RequestError("no weight of the generator may move, so what it draws would stay; nothing was started. Widen "
                           "modifiers.where.")
    first = [p.detach().clone() for p in generators(task, loop, model)]
    importance = fisher(cfg, task, loop, model) if cfg.ewc else []

    def held(m: nn.Module, _: float) -> Tensor:
        parts = [(f * (p - q).square()).sum() for f, p, q in zip(importance, generators(task, loop, m), first, strict=True)]
        return cfg.ewc * torch.stack(parts).sum()

    found, done = [], 0
    for k in range(1, cfg.adapted + 1):
        steps = cfg.adapt_steps * k // cfg.adapted - done
        done += steps
        if steps:
            played(cfg, task, loop, model, bad, steps, held if cfg.ewc else None)
            found.append([p.detach().clone() for p in generators(task, loop, model)])
    return found


def fisher(cfg: AdaptUnlearn, task: GanTask, loop: Loop, model: nn.Module) -> list[Tensor]:
    """F: mean squared gradient of the generator's loss of single samples, tensor by tensor."""
    mine = generators(task, loop, model)
    total = [torch.zeros_like(p) for p in mine]
    noise = task.latents(cfg.fisher_samples, loop.seed + 1).to(mine[0].device)
    for z in noise.split(1):
        batch = Split({"x": z}, "fisher").batch([0]).replace(z=z)
        for sum_, g in zip(total, torch.autograd.grad(task.generator_loss(model, batch).sum(), mine), strict=True):
            sum_ += g.square()
    loop.cost.examples += len(noise)
    return [sum_ / len(noise) for sum_ in total]


def generators(task: GanTask, loop: Loop, model: nn.Module) -> list[nn.Parameter]:
    """The generator's parameters that move."""
    own = task.players(model)["generator"]
    return [p for name, p in loop.selected(model).items() if name in own]


def played(cfg: AdaptUnlearn, task: GanTask, loop: Loop, model: nn.Module, split: Split, steps: int,
           penalty: Callable[[nn.Module, float], Tensor] | None) -> None:
    """Both players in turn on samples; the penalty is the generator's."""
    own = task.players(model)
    terms = {"generator": Term(split, task.generator_loss, moves=own["generator"]),
             "discriminator": Term(split, task.discriminator_loss, moves=own["discriminator"])}
    loop.minimise(model, terms, lr=cfg.lr, steps=steps, batch_size=cfg.batch_size, optimiser=cfg.optimiser, clip=cfg.clip,
                  penalty=penalty, combine="alternate", batch_norm="update")
