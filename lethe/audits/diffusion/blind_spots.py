"""Which concepts are suppressed or exaggerated in what the model draws? Bohacek et al. (2025), by a sparse autoencoder.

    z(x) = TopK(relu(W f(x) + b)),   f(x) ≈ D z(x) + a,   |D_k| = 1        sparse autoencoder, f the judge's features
    E_k(M) = mean of z_k over pictures that M draws                        energy of latent k
    δ_k = (E_k(M) − E_k(original)) / (E_k(M) + E_k(original))   in [−1, 1]:  −1 suppressed, 0 as before, 1 exaggerated

Same prompts and seeds for M and the original, else the mix of prompts explains δ. The autoencoder is trained once, on
pictures that the original draws and on real ones. A latent belongs to the concept when at least `selective` of its energy
per picture comes from prompts with the concept.

    concept_disparity   mean δ of the concept's latents over prompts with the concept; −1 when they never fire
    collateral          over the other prompts: share of the other active latents with |δ| > `tolerance` that a paired
                        t-test finds changed (Benjamini & Hochberg 1995 at 5 %): what went along with the concept

Both are shown: `erasure` judges the same pictures. δ's normalisation is ours; the paper's abstract gives no formula.
Needs:    prompts, judge, original.     Cost: `per_prompt` pictures for every prompt; the autoencoder takes about a second.
Limits:   it sees what the judge's features hold. A concept that shares all its latents with others has none of its own; then
          concept_disparity is not reported.
Deviations: features of the judge instead of DINOv2 patches; a plain TopK autoencoder instead of an archetypal one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Positive, config
from lethe.core.evidence import Value
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import seeded
from lethe.core.registry import Metric, audit
from lethe.core.seeds import derive, generator
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.statistics import paired_p
from lethe.pools.subject import Subject


@config
class BlindSpots:
    """Options of the blind-spot audit."""

    latents: Count = 64              # K                                                [ours; paper: 32 000]
    active: Count = 4                # latents per picture (TopK)                       [ours; paper: 32]
    steps: Count = 400               # of training                                      [ours]
    lr: Positive = 3e-3              # Adam                                             [ours]
    selective: Fraction = 0.9        # of a latent's energy that makes it the concept's [ours]
    tolerance: Fraction = 0.2        # |δ| that is no change                            [ours]
    per_prompt: Count = 8            # pictures per prompt                              [ours]


@audit(
    metrics={
        "concept_disparity": Metric("mean disparity of the concept's latents against the original", (-1.0, 1.0), "lower",
                                    aspect="representation"),
        "collateral": Metric("share of other latents that changed", better="lower", aspect="representation"),
    },
    uses={"decode", "prompts", "reader", "sample"},
    needs={"prompts", "judge", "original"},
    depth="standard",
    blind="It sees what the judge's features hold, over the task's prompts.",
)
def measure(cfg: BlindSpots, subject: Subject, panel: Panel) -> list[Value]:
    task = DiffusionTask.of(panel.task)
    groups = [task.prompts["forget"], [*task.prompts.get("keep", []), *task.prompts.get("outside", [])]]
    named = np.repeat([True, False], [cfg.per_prompt * len(group) for group in groups])

    def drawn(model: nn.Module) -> Tensor:
        repeated = [prompt for group in groups for prompt in group for _ in range(cfg.per_prompt)]
        return task.reader.features(task.sample(model, repeated, seed=panel.seed))

    before = panel.once(("blind_spots", "original", cfg), lambda: drawn(panel.original.model))
    coder = panel.once(("blind_spots", "coder", cfg), lambda: fitted(cfg, torch.cat([before, real(task)]), panel.seed))
    with torch.no_grad():
        old, new = coder.code(before).double().numpy(), coder.code(drawn(subject.answering)).double().numpy()
    of_concept, of_rest = old[named].mean(0), old[~named].mean(0) if (~named).any() else np.zeros(cfg.latents)
    alive = of_concept + of_rest > 0.01 * (of_concept + of_rest).max()
    share = of_concept / np.maximum(of_concept + of_rest, 1e-12)
    own, others = alive & (share >= cfg.selective), np.flatnonzero(alive & (share < cfg.selective))
    values = []
    if own.any():
        values.append(mean_value("concept_disparity", disparity(new[named][:, own].mean(0), of_concept[own])))
    if len(others) and not named.all():
        rest = new[~named][:, others]
        p = np.array([paired_p(gap) for gap in (rest - old[~named][:, others]).T])
        moved = benjamini_hochberg(p) & (np.abs(disparity(rest.mean(0), of_rest[others])) > cfg.tolerance)
        values.append(mean_value("collateral", moved.astype(float)))
    return values


def disparity(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """(new − old) / (new + old), 0 where both vanish. 3 and 1 give ½.  [K], [K] -> [K]"""
    total = new + old
    difference: np.ndarray = np.divide(new - old, total, out=np.zeros_like(total), where=total > 0)
    return difference


def benjamini_hochberg(p: np.ndarray, rate: float = 0.05) -> np.ndarray:
    """Which hypotheses are rejected at this false discovery rate: all up to the last i with p₍ᵢ₎ ≤ rate·i/n.  [n] -> [n]"""
    ordered = np.sort(p)
    below = np.flatnonzero(ordered <= rate * np.arange(1, len(p) + 1) / len(p))
    return p <= (ordered[below[-1]] if len(below) else -1.0)


def real(task: DiffusionTask, limit: int = 256) -> Tensor:
    """The judge's features of pictures that the task has.  -> [m, d]"""
    images = [task.splits[name].columns["image"][:limit] for name in ("forget", "retain") if task.has(name)]
    return task.reader.features(task.decode(torch.cat(images))) if images else torch.zeros(0)


class Coder(nn.Module):
    """A TopK sparse autoencoder of features [n, d], in units of their standard deviation."""

    mean: Tensor

    def __init__(self, features: Tensor, latents: int, active: int) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(0))
        self.scale = float(features.std()) or 1.0
        self.active = min(active, latents)
        self.encoder, self.decoder = nn.Linear(features.shape[1], latents), nn.Linear(latents, features.shape[1])

    def code(self, features: Tensor) -> Tensor:
        """The sparse code.  [n, d] -> [n, K]"""
        dense = self.encoder((features - self.mean) / self.scale).relu()
        top = dense.topk(self.active, dim=1)
        return torch.zeros_like(dense).scatter(1, top.indices, top.values)

    def error(self, features: Tensor) -> Tensor:
        """Mean squared error of the reconstruction, in the features' variance."""
        again = nn.functional.linear(self.code(features), nn.functional.normalize(self.decoder.weight, dim=0), self.decoder.bias)
        return (again - (features - self.mean) / self.scale).square().mean()


def fitted(cfg: BlindSpots, features: Tensor, seed: int) -> Coder:
    """The autoencoder trained on these features.  [n, d]"""
    coder = seeded(lambda _: Coder(features, cfg.latents, cfg.active), derive(seed, "blind_spots"))
    adam, rng = torch.optim.Adam(coder.parameters(), lr=cfg.lr), generator(seed, "blind_spots order")
    for _ in range(cfg.steps):
        adam.zero_grad()
        coder.error(features[torch.randint(0, len(features), (64,), generator=rng)]).backward()
        adam.step()
    return coder.eval()
