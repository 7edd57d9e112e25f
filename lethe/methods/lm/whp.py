"""WHP, "Who's Harry Potter?": see which tokens become likelier when the forgotten text is fitted still better, and teach
others. Eldan & Russinovich (2023), arXiv:2310.02238; the logits as in MUSE, arXiv:2407.06460.

    v_t = z⁰_t − strength · max(0, zʳ_t − z⁰_t),      θ_r = θ_0 after minimising E_{x∈F} ℓ̄(x)
    L(θ) = E_{x∈F} 1/|y| · Σ_t −log p_θ(argmax v_t)  +  α · E_{x∈R} ℓ̄(x)

F forget set, R retain set, z⁰, zʳ log-probabilities of the original and of the reinforced model θ_r, |y| tokens of the answer, ℓ̄
mean negative log-probability of its tokens. With `soft` the whole of softmax(v_t) is taught instead of its largest entry.
Needs:    forget, original; retain when α > 0.     Updates: every trainable parameter.
Cost:     one fine-tuning on F, one pass over F of both models, then one forward/backward on F (and R) per step.
Limits:   strength = 0 teaches what the original says already. v_t = z⁰_t where the reinforced model is no surer.
Fails by: text that is known by heart: zʳ − z⁰ is 0 where nothing is left to learn, so nothing is taught there. The wording is
          forgotten before the facts (MUSE reports that knowledge of news stays).
Deviations: log-probabilities instead of logits, so that a constant added to all logits changes nothing. The paper's second
          source of targets, a dictionary of names and generic words for them, is left out; MUSE leaves it out, too.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Fraction, NonNegative, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.answers import mean_over
from lethe.train.inner import charge, within
from lethe.train.loop import Loop, Term
from lethe.train.tuning import Tuned, tuned


@config
class WHP(Tuned):
    """Options of WHP."""

    strength: NonNegative = 5.0        # how far surer tokens are lowered  [paper] [only with soft=true lr=0.01 reinforce_lr=0.01]
    soft: bool = False                 # the whole distribution as the target                [ours; paper: its largest entry]
    reinforce_lr: Positive = 3e-6      # AdamW, of the reinforced model        [paper] [only with soft=true lr=0.01]
    reinforce_epochs: Positive = 3.0   # passes over F                     [paper] [only with soft=true lr=0.01 reinforce_lr=0.01]
    alpha: NonNegative = 0.0           # weight of the retain loss                           [paper: none]
    lr: Positive = 1e-6                # AdamW, for 7 B weights; tiny models need more       [paper]
    epochs: Positive = 2.0             # passes over F                                       [paper]
    clip: Positive | None = None       # largest gradient norm; null: none [only with lr=0.01 reinforce_lr=0.01]  [ours: none]
    enough: Fraction | None = None     # ends after a pass that left this share of F's tokens unsaid [only with lr=0.01]  [MASC]


def generic(original: Tensor, reinforced: Tensor, strength: float) -> Tensor:
    """z⁰ − strength·max(0, zʳ − z⁰), both as log-probabilities.  [..., V], [..., V] -> [..., V]

    generic([0, 0], [ln 3, 0], 2): z⁰ = (ln ½, ln ½), zʳ = (ln ¾, ln ¼) -> (ln ½ − 2·ln 1.5, ln ½) = (−1.504077, −0.693147).
    """
    before, after = original.float().log_softmax(-1), reinforced.float().log_softmax(-1)
    return before - strength * F.relu(after - before)


@method(needs={"forget", "retain?", "original"}, uses={"answer_lengths", "nll", "outputs"}, mechanism="distil")
def run(cfg: WHP, task: LanguageTask, loop: Loop) -> Outcome:
    first = within(loop, task, "reinforced", loop.modifiers)
    reinforced = first.start()
    with first.damage():   # it shows what F adds, and is thrown away
        first.minimise(reinforced, {"forget": Term(task.forget, task.nll)}, lr=cfg.reinforce_lr, epochs=cfg.reinforce_epochs,
                       batch_size=cfg.batch_size, optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip)
    charge(loop, first)
    original = task.original.to(loop.device)

    def taught(_: nn.Module, b: Batch) -> Tensor:
        v = generic(task.outputs(original, b), task.outputs(reinforced, b), cfg.strength)
        return v if cfg.soft else v.argmax(-1)

    reinforced.eval()
    targets = loop.reference("whp-forget", taught, task.forget)

    def imitate(m: nn.Module, b: Batch) -> Tensor:
        logits = task.outputs(m, b)
        logp, target = logits.float().log_softmax(-1), targets(b)[:, : logits.shape[1]]
        loss = -(target.softmax(-1) * logp).sum(-1) if cfg.soft else -logp.gather(2, target.unsqueeze(2)).squeeze(2)
        return mean_over(loss, task.answer_lengths(b))

    return tuned(cfg, task, loop, imitate, task.nll)
