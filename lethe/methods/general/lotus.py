"""LoTUS: teach the original's own answers, made less certain on forgotten data until accuracy there is that on unseen data.
Spartalis, Semertzidis, Gavves & Daras (2025), CVPR 2025, arXiv:2503.18314.

    L(θ) = E_{x∈F} H(G_τ(z_0(x)), p_θ(x))  +  E_{x∈R'} H(G_hard(z_0(x)), p_θ(x)),      H cross-entropy of soft targets
    τ = exp(α · (a_F(θ) − a*))  once per epoch;    the run ends when a_F < a* − margin

F forget set, R' a random share of the retain set, z_0 logits of the original (frozen), G_τ a draw of Gumbel-softmax at
temperature τ (hard: one-hot), a_F accuracy on F, a* accuracy of the original on unseen data; 0 where all of a class is forgotten.
Reports RF-JSD, the distance that needs no retraining: Jensen–Shannon divergence between the mean answer of θ on F and that of the
original on unseen data, for each class and averaged over classes.
Needs:    forget, retain, original; holdout unless `unseen_accuracy` is set or whole classes go.     Updates: all parameters.
Cost:     one forward/backward on F and one on R' per step, one pass over F per epoch; the original's answers are computed once.
Limits:   τ → 0 is the original's own sampled answer; τ → ∞ is uniform.
Fails by: weakness on small networks: the blurred targets still favour the original's answer, see Measured.
Deviations: F and R' side by side with equal batch sizes; each epoch starts with fresh optimiser state. RF-JSD per row of class
          means, KL against the mixture in the right order; the official code divides the matrix by its total sum and averages
          over the batch, so its values shrink like 1/n.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.alike import of_classes_that_leave
from lethe.core.config import Count, Fraction, NonNegative, Positive, config
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.core.words import number
from lethe.maths.losses import jensen_shannon
from lethe.train.loop import Loop, Term


@config
class LoTUS:
    """Options of LoTUS."""

    alpha: Positive = 8.0              # α, how fast the temperature answers the accuracy    [ours, digits CNN: 2–8; official 2]
    share: Fraction = 0.3              # of R that is trained on                             [official code]
    unseen_accuracy: Fraction | None = None   # a*; null: measured on holdout, 0 for classes [official code: measured]
    margin: NonNegative = 0.01         # a_F may fall this far below a* [only with unseen_accuracy=1.0] [official code]
    lr: Positive = 1e-3                # AdamW                                               [ours, digits CNN; official 1e-4]
    epochs: Count = 10                 # at most; passes over R'                             [official code]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [official code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


def soft_cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """−Σ target · log softmax(logits).  [n, K], [n, K] -> [n]

    Any target at equal logits of K = 2: ln 2.
    """
    return -(target * F.log_softmax(logits.float(), -1)).sum(-1)


def gumbel_softmax(logits: Tensor, tau: float = 1.0, hard: bool = False) -> Tensor:
    """torch's own, bit for bit on the CPU, with draws from the CPU's generator on every device.  [n, K] -> [n, K]"""
    noise = -torch.empty(logits.shape, dtype=logits.dtype).exponential_().log().to(logits.device)
    soft = ((logits + noise) / tau).softmax(-1)
    return torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0) - soft + soft if hard else soft


def temperature(forget_accuracy: float, unseen_accuracy: float, alpha: float) -> float:
    """τ. temperature(1, 0.5, 2) == e; temperature(0.5, 0.5, 2) == 1."""
    return math.exp(alpha * (forget_accuracy - unseen_accuracy))


def rf_jsd(forget: Tensor, forget_labels: Tensor, unseen: Tensor, unseen_labels: Tensor) -> float:
    """Mean over the classes that both have of JS(mean p on F, mean p on unseen data), in bits.  [n, K], [n], [m, K], [m]

    (1, 0) against (0, 1) is 1 bit whatever n and m.
    """
    classes = [k for k in forget_labels.unique().tolist() if (unseen_labels == k).any()]
    rows = [torch.stack([p[labels == k].double().mean(0) for k in classes]).log()
            for p, labels in ((forget, forget_labels), (unseen, unseen_labels))]
    return float(jensen_shannon(*rows).mean())


def answers(task: Task, loop: Loop, model: nn.Module, split: Split) -> tuple[Tensor, Tensor]:
    """Logits and labels, in eval mode.  -> [n, K], [n]"""
    with evaluating(model):
        rows = [(task.outputs(model, b).float().cpu(), b.y.cpu()) for b in loop.drawn(split, 256, "lotus", split.name)]
    return torch.cat([z for z, _ in rows]), torch.cat([y for _, y in rows])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(-1) == labels).float().mean())


@method(needs={"forget", "retain", "original", "holdout?"}, uses={"labels", "outputs", "weights"}, mechanism="distil")
def run(cfg: LoTUS, task: Task, loop: Loop) -> Outcome:
    whole = of_classes_that_leave(task.forget, task.retain)
    aim = 0.0 if whole else cfg.unseen_accuracy
    original = task.original.to(loop.settings.device)
    unseen = answers(task, loop, original, task.holdout) if aim is None or task.has("holdout") else None
    if aim is None:
        assert unseen is not None
        aim = accuracy(*unseen)
    model = loop.start()
    order = torch.randperm(len(task.retain), generator=loop.generator("lotus"))
    some = task.retain.subset(order[: max(1, round(cfg.share * len(order)))].numpy(), "lotus-retain")
    on_forget = loop.reference("lotus-forget", task.outputs, task.forget)
    on_retain = loop.reference("lotus-retain", task.outputs, some)

    def blurred(m: nn.Module, batch: Batch) -> Tensor:   # the loop seeds torch's generator at every step
        return soft_cross_entropy(gumbel_softmax(on_forget(batch).float(), tau), task.outputs(m, batch))

    def sampled(m: nn.Module, batch: Batch) -> Tensor:
        return soft_cross_entropy(gumbel_softmax(on_retain(batch).float(), hard=True), task.outputs(m, batch))

    for epoch in range(cfg.epochs):
        now = accuracy(*answers(task, loop, model, task.forget))
        if now < aim - cfg.margin or (epoch and now == aim == 0):
            loop.notes.append(f"stopped after {epoch} epochs: accuracy {number(now)} on forgotten, {number(aim)} on unseen data")
            break
        tau = temperature(now, aim, cfg.alpha)
        loop.minimise(model, {"retain": Term(some, sampled), "forget": Term(task.forget, blurred)}, lr=cfg.lr, epochs=1,
                      batch_size=cfg.batch_size, optimiser="adamw", weight_decay=cfg.weight_decay, clip=cfg.clip)
    if unseen is not None:
        found, labels = answers(task, loop, model, task.forget)
        loop.notes.append(f"RF-JSD {number(rf_jsd(found.softmax(-1), labels, unseen[0].softmax(-1), unseen[1]))} bits")
    return loop.finish(model)
