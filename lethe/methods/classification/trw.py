"""TRW: teach for the forgotten class the original's other answers, with more weight on similar classes. Ebrahimpour-Boroojeny,
Wang & Sundaram (2025), "On the Necessity of Output Distribution Reweighting for Effective Class Unlearning", arXiv:2506.20893;
also in Ebrahimpour-Boroojeny (2025), arXiv:2512.06993.

    L(θ) = E_{(x,y)∈F} KL( q(x) ‖ p_θ(x) )  +  α · E_{(x,y)∈R} ℓ(θ; x, y)
    q_j(x) ∝ p_0(j | x) · exp(β·s_yj)  for j that stay, 0 for y and every class that vanishes
    s_yj = softmax over j ≠ y of cos(u_y, u_j)/τ,    u_j row j of the head's weights, centred, on their first m principal axes

F forget set, R retain set, ℓ cross-entropy, p_θ the model's probabilities, p_0 the original's (frozen), β ≥ 0 how far q is
tilted, τ > 0 temperature of the similarity. q is the distribution nearest to p_0 (in KL) without the class and with a given mean
similarity.
Needs:    forget, retain, original.     Updates: every trainable parameter.
Cost:     one forward/backward on F and one on R per step; q is computed once.
Limits:   β = 0 and α = 0 is the decoupled distillation of `delete`. The gradient with respect to the logits is p_θ − q.
Fails by: β/τ that is too large: all of F goes to the class that the head's rows put next, whatever the image.
Deviations: known from the abstract and public reviews, not from code: similarity (cosine of the head's rows on principal
          axes, then a softmax), exponential tilt and β = 10 are theirs; τ, m, α, the KL form and the optimiser are ours. They
          call τ sharp. Single examples of classes that stay get q, too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, Optimiser, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.losses import kl
from lethe.train.loop import Loop, Term


@config
class TRW:
    """Options of TRW."""

    beta: NonNegative = 10.0           # β, tilt; 0: the original's proportions              [paper]
    temperature: Positive = 1.0        # τ of the similarity; smaller is sharper             [ours, digits CNN]
    components: Natural = 0            # m, principal axes that are compared; 0: all         [ours]
    alpha: NonNegative = 1.0           # α, weight of the retain term                        [ours]
    lr: Positive = 1e-3                # Adam                                                [ours, digits CNN]
    epochs: Positive = 5.0             # passes over R                                       [ours, digits CNN]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    optimiser: Optimiser = "adam"      # update rule                                         [ours]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [ours]
    clip: Positive | None = None       # largest gradient norm; null: none                   [ours]


def similarity(weight: Tensor, components: int, temperature: float) -> Tensor:
    """s: each row sums to 1 and is 0 on the diagonal.  [K, d] -> [K, K]

    Rows (1, 0), (0, 1), (−1, −1) are centred; cosines of the first to the others: 0 and −1/√2.
    """
    rows = weight.double() - weight.double().mean(0)
    u, scale, _ = torch.linalg.svd(rows, full_matrices=False)
    kept = components or len(scale)
    axes = nn.functional.normalize((u * scale)[:, :kept], dim=1)
    return (axes @ axes.T / temperature).fill_diagonal_(-torch.inf).softmax(1).float()


def tilted(logits: Tensor, labels: Tensor, alike: Tensor, beta: float, gone: Tensor) -> Tensor:
    """Logits of q: z_j + β·s_yj, −∞ at the label and at classes that vanish.  [n, K], [n], [K, K], β, [g] -> [n, K]

    Logits 0, 0, 0, label 0, s = (0, 1, 0), β = ln 3: q = (0, ¾, ¼).
    """
    z = logits.float() + beta * alike[labels]
    z[:, gone] = -torch.inf
    return z.scatter(1, labels.unsqueeze(1), -torch.inf)


@method(needs={"forget", "retain", "original"}, uses={"head", "labels", "nll", "outputs"}, mechanism="distil")
def run(cfg: TRW, task: ClassificationTask, loop: Loop) -> Outcome:
    model = loop.start()
    head: str = task.head
    device = loop.settings.device
    alike = similarity(task.original.get_parameter(f"{head}.weight"), cfg.components, cfg.temperature).to(device)
    kept = task.retain.columns["y"].unique()
    classes = task.forget.columns["y"].unique()
    gone = classes[~torch.isin(classes, kept)].to(device)
    target = loop.reference("trw", lambda m, b: tilted(task.outputs(m, b), b.y, alike, cfg.beta, gone), task.forget)

    def forget(m: nn.Module, batch: Batch) -> Tensor:
        return kl(target(batch), task.outputs(m, batch))

    terms = {"forget": Term(task.forget, forget)}
    if cfg.alpha:
        terms["retain"] = Term(task.retain, task.nll, cfg.alpha)
    loop.minimise(model, terms, over="retain" if cfg.alpha else "forget", lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)
