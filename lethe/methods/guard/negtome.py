"""Negative token merging (NegToMe): while a picture is drawn, tokens that resemble those of a reference picture are pushed away
from them; the weights stay. Singh et al. (2024), "Negative Token Merging: Image-based Adversarial Feature Guidance",
arXiv:2412.01339.

    s_i ← s_i + α (s_i − r_j*(i))   where  cos(s_i, r_j*(i)) > τ,    j*(i) = argmax_j cos(s_i, r_j),    else s_i stays
    at the timesteps t ≥ (1 − share) · T, behind every self-attention

s_i the tokens of the picture that is drawn, r_j those of the reference pictures (m of the forget set), noised to the same t.
Needs:    forget (the references), original.     Updates: nothing; the outcome is a guard, which holds the references.
Cost:     one forward of the m references at each of the first steps.
Limits:   τ ≥ 1 or α = 0 or share = 0 is the original, bit for bit.
Fails by: what the reference pictures do not show, or the same concept later in the trajectory; strong α tears pictures of
          other prompts that share tokens with the references. Whoever holds the weights takes it off (audit: `guard`), and its
          file holds the reference pictures themselves.
Deviations: the official function takes the largest cosine over the wrong axis of its table; here over reference tokens for
          each token. References get noise of their own that is kept, and are read with their captions. It acts on all rows of
          a batch, so that both halves of guidance are treated alike. Networks with self-attention named attn1 (diffusers' UNets).
          How well it suppresses was not measured: no trained network with its own judge is small enough for the test suite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, NonNegative, config
from lethe.core.families.diffusion import AroundNetwork, DiffusionTask
from lethe.core.guard import Parts
from lethe.core.modules import hooked
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.errors import RequestError
from lethe.train.loop import Loop


@config
class NegToMe:
    """Options of negative token merging."""

    alpha: NonNegative = 0.9       # α, how far tokens are pushed                                   [official code, FLUX]
    threshold: NonNegative = 0.65  # τ, least cosine of a match                                     [official code, FLUX]
    share: Fraction = 0.1          # of the timesteps, the noisiest, at which it acts               [official code, FLUX]
    references: Count = 4          # m, pictures of the forget set                                  [ours; paper: 1]


def pushed(tokens: Tensor, reference: Tensor, alpha: float, threshold: float) -> Tensor:
    """[n, S, d], [R, d] -> [n, S, d]

    s = (2, 0), r = (1, 0) and (0, 3): cos = 1 with the first; α = ½: s + ½(s − r) = (2.5, 0). s = (1, 1): both have cos 0.71, and
    with τ = 0.8 it stays.
    """
    alike = F.normalize(tokens, dim=-1) @ F.normalize(reference, dim=-1).T
    near, place = alike.max(-1)
    moved = tokens + alpha * (tokens - reference[place])
    return torch.where((near > threshold).unsqueeze(-1), moved, tokens)


@contextmanager
def behind(model: nn.Module, change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Inside, what every self-attention says is changed by (name, output)."""
    handles = [module.register_forward_hook(lambda _, __, out, name=name: change(name, out))
               for name, module in attentions(model).items()]
    with hooked(*handles):
        yield


def attentions(model: nn.Module) -> dict[str, nn.Module]:
    """The self-attention layers by name."""
    return {name: module for name, module in model.named_modules() if name.rsplit(".", 1)[-1] == "attn1"}


class Repelled(AroundNetwork, Parts):
    """A network whose tokens are pushed away from those of references.

    pictures, noise  [m, C, H, W]     text  [m, L, d] states of their captions     signal  [T] ᾱ
    """

    pictures: Tensor
    noise: Tensor
    text: Tensor
    signal: Tensor
    alpha: float
    threshold: float
    first: int

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **given: Any) -> Any:
        where = torch.as_tensor(timestep, device=sample.device).flatten()
        if float(where.max()) < self.first or bool((where != where[0]).any()):   # a training loss asks at many timesteps
            return self.model(sample, timestep, encoder_hidden_states=encoder_hidden_states, **given)
        seen: dict[str, Tensor] = {}

        def keep(name: str, out: Tensor) -> Tensor:
            seen[name] = out.detach().flatten(0, 1)
            return out

        level, count = self.signal[int(where[0])], len(self.pictures)
        x = level.sqrt() * self.pictures + (1 - level).sqrt() * self.noise
        x = torch.cat([x, sample[:1, x.shape[1]:].expand(count, -1, -1, -1)], 1)   # with the mask that inpainting networks see
        with behind(self.model, keep):
            self.further(x, where[:1].expand(count), self.text, encoder_hidden_states, given)
        with behind(self.model, lambda name, out: pushed(out, seen[name], self.alpha, self.threshold)):
            return self.model(sample, timestep, encoder_hidden_states=encoder_hidden_states, **given)


@method(needs={"forget", "original"}, uses={"alphas_cumprod", "pipeline", "text"}, mechanism="guard")
def run(cfg: NegToMe, task: DiffusionTask, loop: Loop) -> Outcome:
    if type(task.original).__name__ != "UNet2DConditionModel" or not attentions(task.original):
        raise RequestError(f"negtome acts behind self-attention layers named attn1 of a UNet that reads text, and this is a "
                           f"{type(task.original).__name__} with {len(attentions(task.original))} of them; nothing was started. "
                           "Choose a method that changes weights, e.g. uce.")
    rng, device = loop.generator("negtome"), loop.settings.device
    batch = task.forget.batch(torch.randperm(len(task.forget), generator=rng)[: cfg.references].tolist()).to(device)
    noise = torch.randn(batch.image.shape, generator=rng).to(device)
    signal = task.alphas_cumprod.to(device)
    loop.note(f"tokens are pushed away from those of {len(batch.image)} pictures that the guard holds; nothing was removed")
    return loop.finish(loop.start(), guard=lambda model: Repelled(
        model, pictures=batch.image, noise=noise, text=task.text(batch.tokens).to(device), signal=signal, alpha=cfg.alpha,
        threshold=cfg.threshold, first=round((1 - cfg.share) * len(signal))))
