"""MUDMAN: unlearn by the gradient of a copy that relearns, through weights that retained data would move the same way, in steps
of one length. Sondej, Yang, Kniejski & Windys (2025), arXiv:2506.12484.

    every `fork` steps:  θ_a ← θ                                                          (an adversary)
    every step:          m ← μ·m + (1 − μ)·∇L_R(θ),     g = ∇L_u(θ_a; B)
                         g ← g ⊙ [sign m = sign g],     g ← g/‖g‖
                         θ ← θ − η_r·m − η·g,           θ_a ← θ_a − η_a·∇ℓ̄(θ_a; B),   B a batch of F

F forget set, R retain set, ℓ̄ mean negative log-probability of an answer's tokens, L_R = E_{x∈R} ℓ̄; L_u is the negative entropy
of the predictions (`entropy`), −ℓ̄ (`ascent`) or the true logit above the mean logit, at least 0 (`logit`), a mean over tokens.
Needs:    forget, retain.     Updates: the MLPs' gate projections (`targets`); θ_a and m are two more copies of these.
Cost:     two forward/backward on F and one on R per step.
Limits:   ⟨g, m⟩ ≥ 0, so to first order a step along −g lowers the retained loss, too; every step of θ along g is η long.
          fork = 1 is without the adversary's relearning; then the gradient is θ's own.
Fails by: few retained data: m is then the gradient of what is fitted already, and its signs are noise. The mask halves the steps.
Deviations: ‖g‖ is taken after the mask, so η is the step's length; the official code rescales to the norm of the first batch,
          taken before the mask. m starts at the first gradient instead of 0, whose sign would match nothing. Without gate
          projections (GPT-2) name `targets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, NonNegative, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.answers import answered, mean_over
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.combine import Apply, Ask, Gradients, Recalling, inner

Unlearn = Literal["entropy", "ascent", "logit"]


@config
class MUDMAN:
    """Options of MUDMAN."""

    loss: Unlearn = "entropy"          # L_u                                                 [paper: the best of three]
    lr: Positive = 0.1                 # η, length of a forget step                          [official code]
    retain_lr: NonNegative = 1e-3      # η_r, SGD on R                                       [official code]
    relearn_lr: NonNegative = 1e-3     # η_a, SGD of the adversary  [official code] [only with relearn_lr=10.0 fork=4]
    momentum: Fraction = 0.95          # μ, of the retained gradient                         [official code]
    fork: Count = 48                   # steps between two adversaries  [official code] [only with relearn_lr=10.0]
    targets: tuple[str, ...] = ("*gate_proj*",)   # parameters that move [e.g. *down_proj*]  [official code]
    steps: Count = 480                 # batches of each term                                [official code]
    batch_size: Count = 16             # of each term                                        [official code]


def entropy_loss(logits: Tensor) -> Tensor:
    """Σ_v p(v)·log p(v): minus the entropy.  [..., V] -> [...]

    entropy_loss([0, 0]) = −ln 2 = −0.693147.
    """
    logp = logits.float().log_softmax(-1)
    return (logp.exp() * logp).sum(-1)


def logit_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """max(0, z_y − mean z).  [..., V], [...] -> [...]

    logit_loss([3, 0, 0], 0) == 2; logit_loss([3, 0, 0], 1) == 0.
    """
    logits = logits.float()
    return (logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - logits.mean(-1)).clamp(min=0)


@dataclass(frozen=True)
class Meta(Recalling):
    """combine: the steps of the docstring, as one gradient for SGD with rate 1.

    relearns  [0]: whether the forget term computes the adversary's loss
    """

    relearns: list[bool]
    lr: float
    retain_lr: float
    relearn_lr: float
    momentum: float
    fork: int

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        memory, step = self.memory, int(self.memory.get("step", torch.tensor(0)))
        if step % self.fork == 0:
            memory |= {f"adversary/{name}": p.detach().clone() for name, p in self.params.items()}
        smooth = []
        for name, g in zip(self.params, gradients(["retain"]), strict=True):
            old = memory.get(f"momentum/{name}", g)
            memory[f"momentum/{name}"] = self.momentum * old + (1 - self.momentum) * g
            smooth.append(memory[f"momentum/{name}"])
        found = self._of_adversary(gradients)
        masked = [g * (g.sign() == m.sign()) for g, m in zip(found, smooth, strict=True)]
        length = inner(masked, masked).sqrt().clamp(min=1e-30)
        memory["step"] = torch.tensor(step + 1)
        apply([self.retain_lr * m + self.lr * (g / length).to(g.dtype) for g, m in zip(masked, smooth, strict=True)])

    def _of_adversary(self, gradients: Ask) -> Gradients:
        """∇L_u at the adversary, which then takes its own step; θ is as it was."""
        here = {name: p.detach().clone() for name, p in self.params.items()}
        try:
            with torch.no_grad():
                for name, p in self.params.items():
                    p.copy_(self.memory[f"adversary/{name}"])
            found = [g.clone() for g in gradients(["forget"])]
            self.relearns[0] = True
            for name, g in zip(self.params, gradients(["forget"]), strict=True):
                self.memory[f"adversary/{name}"] = self.memory[f"adversary/{name}"] - self.relearn_lr * g
        finally:
            self.relearns[0] = False
            with torch.no_grad():
                for name, p in self.params.items():
                    p.copy_(here[name])
        return found


@method(needs={"forget", "retain"}, uses={"answer_lengths", "nll", "outputs"}, mechanism="ascent")
def run(cfg: MUDMAN, task: LanguageTask, loop: Loop) -> Outcome:
    relearns = [False]

    def push(m: nn.Module, b: Batch) -> Tensor:
        if relearns[0]:
            return task.nll(m, b)
        if cfg.loss == "ascent":
            return -task.nll(m, b)
        logits, count = task.outputs(m, b), task.answer_lengths(b)
        tokens = entropy_loss(logits) if cfg.loss == "entropy" else logit_loss(logits, answered(b.labels, count, logits.shape[1]))
        return mean_over(tokens, count)

    model = loop.start(where={"name": "names", "patterns": cfg.targets})
    meta = Meta(relearns, cfg.lr, cfg.retain_lr, cfg.relearn_lr, cfg.momentum, cfg.fork)
    terms = {"forget": Term(task.forget, push), "retain": Term(task.retain, task.nll)}
    loop.minimise(model, terms, lr=1.0, steps=cfg.steps, batch_size=cfg.batch_size, optimiser="sgd", momentum=0.0, combine=meta)
    return loop.finish(model)
