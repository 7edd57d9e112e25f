"""What fine-tuning of a language model has in the codes of OpenUnlearning, whatever the loss; methods extend the options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lethe.core.config import Count, Fraction, NonNegative, Optimiser, Parity, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.train.loop import Loop
from lethe.train.parity import term
from lethe.train.terms import Loss, Term


@config
class Tuned:
    """Options of the minimisation and of the retain term."""

    alpha: NonNegative = 1.0           # weight of the retain term; 0 turns it off           [official codes]
    lr: Positive = 1e-5                # AdamW, for 1–8 B weights; tiny models need more     [OpenUnlearning]
    epochs: Positive = 10.0            # passes over F                                       [OpenUnlearning]
    batch_size: Count = 32             # of each term                                        [OpenUnlearning]
    optimiser: Optimiser = "adamw"     # update rule                                         [OpenUnlearning]
    weight_decay: NonNegative = 0.01   # pull towards 0                                      [OpenUnlearning]
    clip: Positive | None = None       # largest gradient norm; null: none                   [OpenUnlearning: none]
    enough: Fraction | None = None     # ends after a pass that left this share of F's tokens unsaid; null: never  [MASC]


def tuned(cfg: Tuned, task: Task, loop: Loop, push: Loss, keep: Loss, gamma: float = 1.0,
          forget: Split | None = None, more: Mapping[str, Term] | None = None, parity: Parity = "none",
          skip: int | None = 0, **options: Any) -> Outcome:
    """The original, fine-tuned on γ · E_F push + α · E_R keep; without α retained data are not asked for.

    forget   what stands for F, e.g. the same prompts with other answers
    more     further terms
    parity   how the means over the tokens of answers are joined, of F without the first `skip` tokens: see `train.parity`;
             skip = None: `push` is of whole answers, and theirs is a mean over examples anyway
    options  of `Loop.minimise`
    """
    pushed = term("none" if skip is None else parity, task.forget if forget is None else forget, push, gamma, skip or 0)
    terms = {"forget": pushed, **(more or {})}
    if cfg.alpha:
        terms["retain"] = term(parity, task.retain, keep, cfg.alpha)
    model = loop.start()
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip, until=unsaid(cfg, task.forget, loop), **options)
    return loop.finish(model)


def unsaid(cfg: Tuned, forget: Split, loop: Loop) -> Callable[[nn.Module], bool] | None:
    """Whether another token is likelier than the true one at `enough` of all places of F's answers: MASC's rule to end."""
    if cfg.enough is None:
        return None

    def ended(model: nn.Module) -> bool:
        wrong, all_of_them = 0, 0
        for batch in loop.drawn(forget, 256, "unsaid"):
            seen = loop.task.observe(model, batch)
            wrong += int((seen["answer_mask"] & ~seen["correct"]).sum())
            all_of_them += int(seen["answer_mask"].sum())
        if wrong < float(cfg.enough or 0) * all_of_them:
            return False
        loop.note(f"ended after a pass: {wrong} of {all_of_them} tokens of the forgotten answers are no longer the likeliest")
        return True

    return ended


def retold(task: Task, loop: Loop, split: Split) -> Callable[[Batch], Batch]:
    """The same examples with the answers that `task.relabel` draws, e.g. refusals; once, so that what the original says about
    them is one table."""
    drawn = task.relabel(split.batch(range(len(split))), loop.generator("refusals", split.name))
    taught = Split(drawn.columns, f"{split.name}-refused", split.ids, padding=split.padding)
    return lambda batch: taught.batch(batch.index.cpu()).to(batch.ids.device)
