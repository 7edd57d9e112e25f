"""The original as judge: what a picture shows, by how well the frozen original explains it with and without some words.

    L(c) = −½ ∫_{α ≤ 0} E_ε ‖ε − ε_0(x_α, c)‖² dα = log p_0(x_1|c) + const      for each condition c, with the same noise for all

What follows of it stands in `word_judge`. α the log-SNR, x_1 the picture under as much noise as signal: what is drawn is
decided above this noise, and below it a trained network's errors are larger than what the words tell. On 288 pictures of one
original of coloured shapes and one edit of it the AUC for the concept is 0.99 and agreement with a trained classifier 96 % (24
levels, two draws of noise; all levels: 0.90 and 85 %). The cut was chosen on these very pictures, so on others expect less. It
knows every text that the original knows, so it needs no classifier and no labels. It sees no more than the original: what the
original cannot tell apart, it cannot judge; and a method that asks the same judge while it erases (`mim_mu`) is looked at with
the glasses that it wore.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import evaluating
from lethe.core.split import Batch
from lethe.maths.information import noise_levels, surprises
from lethe.models.diffusion.word_judge import WordJudge

LEVELS = 16          # noise levels
SIZE = 16            # pictures at once; each is seen under several conditions


class OriginalJudge(WordJudge):
    """The frozen original asks itself."""

    def __init__(self, task: DiffusionTask, seed: int = 0) -> None:
        super().__init__(task)
        self.seed = seed

    def look(self, pixels: Tensor) -> Tensor:
        return torch.cat([self.task.encode(some) for some in pixels.split(SIZE)])

    def gained(self, x: Tensor, concept: str, rest: str) -> Tensor:
        """i_0(x; z | r) = log p_0(x|c) / p_0(x|r) of pictures as the network sees them.  -> [n], in nats"""
        given, less = self.likelihoods(x, [concept, rest])
        gain: Tensor = given - less
        return gain

    def likelihoods(self, x: Tensor, prompts: Sequence[str]) -> Tensor:
        """log p_0(x|c) up to a constant, for each of m prompts.  -> [m, n]"""
        task, model = self.task, self.task.model
        device = next(model.parameters()).device
        texts = task.text(task.tokens(list(prompts))).to(device)

        def ask(x_t: Tensor, t: Tensor, part: slice) -> Tensor:
            m, n = len(texts), len(x_t)
            said = task.predict_noise(model, x_t.repeat(m, 1, 1, 1), t.repeat(m), texts.repeat_interleave(n, 0))
            return said.view(m, *x_t.shape)

        with evaluating(model):
            levels = noise_levels(task.alphas_cumprod, LEVELS, loudest=0.0)
            return -surprises(ask, task.mixed, x.to(device), task.alphas_cumprod, levels, self.seed, SIZE)

    def embed(self, x: Tensor) -> Tensor:
        """The original's features at a quarter of the schedule, without a prompt.  -> [n, d]"""
        task = self.task
        device, t = next(task.model.parameters()).device, len(task.alphas_cumprod) // 4
        noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(self.seed))
        found = []
        with evaluating(task.model):
            for some in x.split(64):
                n = len(some)
                columns = {"image": some, "tokens": task.tokens([""]).expand(n, -1), "t": torch.full((n,), t),
                           "noise": noise.expand_as(some)}
                found.append(task.features(task.model, Batch(columns, torch.arange(n)).to(device)).float().cpu())
        return torch.cat(found)
