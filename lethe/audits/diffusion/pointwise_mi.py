"""How much does the prompt still tell the model about the picture? Pointwise mutual information from noise predictions.

    i(x; c) = ½ ∫ E_ε ‖ε_θ(x_α, c) − ε_θ(x_α, ∅)‖² dα       in nats, α = log ᾱ/(1 − ᾱ), x_α = √ᾱ x + √(1 − ᾱ) ε

x a picture, c its prompt, ∅ the empty prompt. For exact denoisers its mean over p(x|c) is KL(p(x|c) ‖ p(x)) (the
I-MMSE identity, Guo, Shamai & Verdú 2005; for diffusion Kong et al. 2023, arXiv:2310.07972). Squared norms are sums
over pixels. The form with the difference of predictions has less variance than that with the difference of errors, and
is never negative. The integral is a trapezoid sum over `levels` noise levels between the shares `low` and `high` of the
schedule, with the same noise for all examples: a lower bound of the whole integral.
Only mi_forget is judged: what befell retained prompts is read from pictures (`erasure`).

Low is not the target, the retrained value is: on the preset shapes_erase a retrained model scores higher on forget
pictures than the original (21.2 against 9.4 nats, n = 1), because it is surely wrong about them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lethe.core.config import Count, Fraction, config
from lethe.core.evidence import Value
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import evaluating
from lethe.core.passes import plain, rows
from lethe.core.registry import Metric, audit
from lethe.core.seeds import generator
from lethe.core.split import Batch, Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

INF = float("inf")


@config
class PointwiseMI:
    """Options of the pointwise mutual information."""

    levels: Count = 12            # noise levels                                        [ours]
    low: Fraction = 0.02          # first and last level, as shares of the schedule     [ours]
    high: Fraction = 0.98         #                                                     [ours]
    limit: Count = 64             # pictures of each split                              [ours]


@audit(
    metrics={
        "mi_forget": Metric("mean information of the prompt about forget pictures, in nats", (0.0, INF)),
        "mi_retain": Metric("mean information of the prompt about retained pictures, in nats", (0.0, INF), "higher"),
    },
    uses={"alphas_cumprod", "outputs", "tokens"},
    needs={"forget", "retain?"},
    depth="standard",
    blind="It asks about the captions of the forget pictures only: another wording may still carry the information.",
)
def measure(cfg: PointwiseMI, subject: Subject, panel: Panel) -> list[Value]:
    task = DiffusionTask.of(panel.task)
    values = []
    for name in ("forget", "retain"):
        if task.has(name):
            values.append(mean_value(f"mi_{name}", informations(cfg, task, subject, task.splits[name]).numpy()))
    return values


def informations(cfg: PointwiseMI, task: DiffusionTask, subject: Subject, split: Split) -> Tensor:
    """i(x; c) of the first examples of a split.  -> [n]"""
    some = split.subset(range(min(cfg.limit, len(split))), split.name)
    total = len(task.alphas_cumprod)
    steps = torch.linspace(cfg.low * (total - 1), cfg.high * (total - 1), cfg.levels).long()
    alphas = task.alphas_cumprod[steps].double()

    def of(batch: Batch) -> Tensor:
        gaps = [apart(task, subject, batch, int(t)) for t in steps]
        return information(torch.stack(gaps, 1).double().cpu(), (alphas / (1 - alphas)).log())

    with evaluating(subject.model.to(subject.device)):
        return rows(of, plain(some, subject.batch_size, device=subject.device), len(some))


def apart(task: DiffusionTask, subject: Subject, batch: Batch, t: int) -> Tensor:
    """‖ε_θ(x_t, c) − ε_θ(x_t, ∅)‖², summed over pixels.  -> [n]"""
    noise = torch.randn(batch.image.shape[1:], generator=generator(0, "pointwise_mi", t)).to(batch.image)
    when = torch.full((len(batch),), t, device=batch.image.device)
    placed = batch.replace(t=when, noise=noise.expand_as(batch.image))
    empty = task.tokens([""]).to(batch.tokens.device).expand_as(batch.tokens)
    named, free = task.outputs(subject.model, placed), task.outputs(subject.model, placed.replace(tokens=empty))
    return (named - free).square().flatten(1).sum(1)


def information(squared: Tensor, log_snr: Tensor) -> Tensor:
    """½ ∫ squared dα by trapezoids; the order of the levels does not matter.  [n, K], [K] -> [n]

    squared (2, 4) at α (0, 1): ½ · (2 + 4)/2 = 1.5.
    """
    order = torch.argsort(log_snr)
    return 0.5 * torch.trapezoid(squared[:, order], log_snr[order], dim=1)
