"""NatMU: cover part of each forgotten image with a retained image of another class, and teach that class. He, Li, Cheng, Huang
& Huang (2024), "Towards Natural Machine Unlearning", arXiv:2405.15495.

    x̃_k = m_k ⊙ x + (1 − m_k) ⊙ x_k,     m_k = clip(ramp_k + δ, 0, 1),     k = 1…4
    L(θ) = E_{x∈F, k} ℓ(θ; x̃_k, y_k)  +  α · E_{(x,y)∈R} ℓ(θ; x, y)

F forget set, R retain set, ℓ cross-entropy. (x_k, y_k) a random retained image of class y_k ≠ y, where y is the label of x:
partners  likely  y_1…y_4 the classes that the original finds most likely after y
          random  any retained classes
ramp_k rises from 0 at the border to nearly 1 in the middle, or falls likewise: along rows (k = 1, 3) and columns (k = 2, 4), so
that each shows another part of x, about ½ + δ of it. The 4·|F| images are made once.
Needs:    forget, retain, original.     Updates: every trainable parameter.
Cost:     one pass of the original over F; one forward/backward on the mixed images and one on R per step.
Limits:   δ ≤ −1 shows nothing of x and is training on R alone; δ ≥ 1 shows x whole, with wrong labels. Pictures [n, C, H, W]
          only: for tables, signals or text it stops with an error before any work, because halves of them are no examples.
Fails by: single labels learned by heart in few epochs: x itself is never shown, so what is known of it fades only as far as
          it looks like its mixtures.
Deviations: F and R side by side with equal batch sizes and F cycled; the official code passes over their union. Retained images
          are drawn with replacement and without augmentation. `likely` for whole classes, too, where the official code takes
          random classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Split, pixels
from lethe.errors import DataError, NeedsUnmet
from lethe.train.loop import Loop, Term

MASKS = 4


@config
class NatMU:
    """Options of NatMU."""

    partners: Literal["likely", "random"] = "likely"   # classes that are laid over, see above   [official code, single images]
    delta: float = -0.1                # δ; lower shows less of the forgotten image          [official code: −0.19 to −0.05]
    alpha: NonNegative = 1.0           # weight of the retain term                           [ours]
    lr: Positive = 3e-3                # AdamW, cosine to 0                                  [ours, digits CNN; official 1e-3]
    epochs: Positive = 5.0             # passes over R                                       [official code]
    batch_size: Count = 64             # examples of each term per step                      [ours; official 128]
    optimiser: Optimiser = "adamw"     # update rule                                         [official code]
    weight_decay: NonNegative = 2e-3   # pull towards 0                                      [official code: 0–2e-3]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


def masks(height: int, width: int, delta: float) -> Tensor:
    """How much of the forgotten image is seen: ramps along rows and columns, up to the middle and down, and their reverses.
    -> [4, 1, height, width]

    masks(4, 1, 0)[0] is (0, ½, ½, 0) down the rows, masks(4, 1, 0)[2] its reverse (½, 0, 0, ½).
    """
    def ramp(size: int) -> tuple[Tensor, Tensor]:
        half = (size + 1) // 2
        place = torch.arange(size)
        rise = torch.minimum(place, size - 1 - place)
        return rise / half, (half - 1 - rise) / half

    (down, up), (right, left) = ramp(height), ramp(width)
    rows = [r.view(-1, 1).expand(height, width) for r in (down, up)]
    columns = [c.view(1, -1).expand(height, width) for c in (right, left)]
    return (torch.stack([rows[0], columns[0], rows[1], columns[1]]).unsqueeze(1) + delta).clamp(0, 1)


def likely(logits: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """The classes that the original finds most likely, of those that are retained and not the label.
    [n, K], [n], [K] bool -> [n, 4]; the ranks start again where there are fewer than 4.
    """
    barred = logits.masked_fill(~present, float("-inf")).scatter(1, labels.unsqueeze(1), float("-inf"))
    order = barred.argsort(dim=1, descending=True, stable=True)
    count = torch.isfinite(barred).sum(1)
    return torch.stack([order[torch.arange(len(order)), k % count] for k in range(MASKS)], 1)


def pictures(x: Tensor) -> Tensor:
    """[n, C, H, W] as floats, or an error."""
    if x.dim() != 4:
        raise DataError(f"x is {list(x.shape)}, but NatMU lays parts of pictures [n, C, H, W] over each other, which has no "
                        "meaning for tables or text; nothing was started. Choose random_label or another method.")
    return pixels(x)


def hybrids(cfg: NatMU, task: ClassificationTask, loop: Loop) -> Split:
    """Four mixtures of every forgotten image with retained ones, labelled as the retained one is."""
    kept, known = pictures(task.retain.columns["x"]), task.retain.columns["y"]
    images, labels = pictures(task.forget.columns["x"]), task.forget.columns["y"]
    original = task.original.to(loop.settings.device)
    with evaluating(original):
        logits = torch.cat([task.outputs(original, b).float().cpu() for b in loop.drawn(task.forget, 256, "natmu")])
    present = torch.zeros(logits.shape[1], dtype=torch.bool)
    present[known] = True
    if (present.sum() - present[labels].long()).min() < 1:
        raise NeedsUnmet("the retained data have no class but that of a forgotten image, so there is nothing to lay over it; "
                         "nothing was started. Provide retained images of other classes.")
    rng = loop.generator("natmu")
    ranked = logits if cfg.partners == "likely" else torch.rand(logits.shape, generator=rng)
    classes = likely(ranked, labels, present)
    rows = [torch.nonzero(known == k)[:, 0] for k in range(len(present))]
    drawn = torch.stack([rows[k][torch.randint(len(rows[k]), (), generator=rng)] for k in classes.flatten().tolist()])
    mask = masks(images.shape[2], images.shape[3], cfg.delta).repeat(len(images), 1, 1, 1)
    mixed = mask * images.repeat_interleave(MASKS, 0) + (1 - mask) * kept[drawn]
    return Split({"x": mixed, "y": known[drawn]}, "hybrids")


@method(needs={"forget", "retain", "original", "pictures"}, uses={"inputs", "labels", "nll", "outputs"}, mechanism="relabel")
def run(cfg: NatMU, task: ClassificationTask, loop: Loop) -> Outcome:
    terms = {"retain": Term(task.retain, task.nll, cfg.alpha), "forget": Term(hybrids(cfg, task, loop), task.nll)}
    model = loop.start()
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip, schedule="cosine")
    return loop.finish(model)
