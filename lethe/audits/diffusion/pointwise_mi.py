"""How much does the prompt still tell the model about the picture? Pointwise mutual information from noise predictions.

    i_θ(x; c)     = ½ ∫ E_ε [‖ε − ε_0(x_α, ∅)‖² − ‖ε − ε_θ(x_α, c)‖²] dα       in nats, α = log ᾱ/(1 − ᾱ)
    i_θ(x; z | r) = ½ ∫ E_ε [‖ε − ε_0(x_α, r)‖² − ‖ε − ε_θ(x_α, c)‖²] dα       x_α = √ᾱ x + √(1 − ᾱ) ε

x a picture, c its prompt, r the prompt without the concept's words z, ∅ the empty prompt; ε_0 the frozen original, ε_θ the
model that is audited. Both are log-likelihood ratios of the picture, with their sign: positive where the model still expects
this picture of this prompt, negative where it expects it less than the original does without the prompt, or without the
concept. For exact denoisers the mean over p(x|c) is the mutual information (the I-MMSE identity, Guo, Shamai & Verdú 2005; for
diffusion Kong et al. 2023, arXiv:2310.07972). What is held against must be frozen: an edited model's own ∅ may have moved, and
the form with the square of the difference of two predictions is information for the original alone. The integral is a trapezoid
sum over `levels` noise levels, evenly spaced in log-SNR between the shares `low` and `high` of the schedule; every picture has
noise of its own, the same for all models. Only mi_forget is judged: what befell retained prompts is read from pictures
(`erasure`).

Known answers: of 144 equally likely pictures, 9 to each of 16 prompts, the prompt tells log 16 = 2.77 nats, the shape given the
colour log 4 = 1.39. A trained original reads more where its ∅ has seen few empty captions.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lethe.core.concepts import without
from lethe.core.config import Count, Fraction, config
from lethe.core.evidence import Value
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import evaluating
from lethe.core.registry import Metric, audit
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.information import noise_levels, surprises
from lethe.pools.subject import Subject

INF = float("inf")


@config
class PointwiseMI:
    """Options of the pointwise mutual information."""

    levels: Count = 24            # noise levels                                        [ours]
    low: Fraction = 0.02          # first and last level, as shares of the schedule     [ours]
    high: Fraction = 0.98         #                                                     [ours]
    limit: Count = 64             # pictures of each split                              [ours]


@audit(
    metrics={
        "mi_forget": Metric("mean information of the prompt about forget pictures, in nats", (-INF, INF), version=2),
        "mi_concept": Metric("mean information of the concept's words about forget pictures given the rest, in nats",
                             (-INF, INF), "lower"),
        "mi_retain": Metric("mean information of the prompt about retained pictures, in nats", (-INF, INF), "higher", version=2),
    },
    uses={"alphas_cumprod", "levels", "pipeline", "predict_noise", "text", "tokens"},
    needs={"forget", "original", "retain?"},
    depth="standard",
    blind="It asks about the captions of the forget pictures only: another wording may still carry the information.",
)
def measure(cfg: PointwiseMI, subject: Subject, panel: Panel) -> list[Value]:
    task = DiffusionTask.of(panel.task)
    values = []
    for role in ("forget", "retain"):
        if not task.has(role):
            continue
        split = panel.part(task.splits[role], cfg.limit)
        prompts = task.captions(split)
        rests = [without(prompt, task.wordings) for prompt in prompts] if role == "forget" else []
        bases = [[""] * len(prompts), *([rests] if any(rests) else [])]
        before = panel.once(("pointwise_mi", role, cfg), partial(known, cfg, task, panel.original, split, bases, panel.seed))
        after = known(cfg, task, subject, split, [prompts], panel.seed)[0]
        for metric, base in zip((f"mi_{role}", "mi_concept"), before, strict=False):
            values.append(mean_value(metric, (base - after).numpy()))
    return values


def known(cfg: PointwiseMI, task: DiffusionTask, subject: Subject, split: Split, groups: list[list[str]], seed: int) -> Tensor:
    """½ ∫ ‖ε − ε̂‖² dα of every picture under its prompt of each group.  -> [groups, n]"""
    device = subject.device
    model = subject.model.to(device)
    texts = [task.text(task.tokens(prompts), model).detach() for prompts in groups]

    def ask(x_t: Tensor, t: Tensor, part: slice) -> Tensor:
        return torch.stack([task.predict_noise(model, x_t, t, text[part].to(device)) for text in texts])

    times = noise_levels(task.alphas_cumprod, cfg.levels, cfg.low, cfg.high)
    with evaluating(model):
        images = split.columns["image"].to(device)
        return surprises(ask, task.mixed, images, task.alphas_cumprod, times, derive(seed, "pointwise_mi"), subject.batch_size)
