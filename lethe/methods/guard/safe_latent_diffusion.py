"""Safe latent diffusion: steer every picture away from the concept while it is drawn; the weights stay. Schramowski, Brack,
Deiseroth & Kersting (2023), arXiv:2211.05105 (CVPR 2023).

    ε̄_c = ε_c − g_i,    g_i = μ ∘ (ε_S − ε_∅) + s_m ν_i   from step `warm_up` on (before: ε̄_c = ε_c)
    μ = min(1, s_S |ε_c − ε_S|)  where  ε_c − ε_S < λ,  else 0        (entry by entry)
    ν_{i+1} = β ν_i + (1 − β) g_i,    ν_0 = 0

ε_c the prediction for the prompt, ε_∅ without one, ε_S for the words that name the concept. Under guidance w the sampler
follows ε_∅ + w (ε̄_c − ε_∅), which is the published rule: the guard changes ε_c alone, whatever asks it.
Needs:    original, and the concept's words; no pictures, no steps.     Updates: nothing; the outcome is a guard.
Cost:     two more forwards per sampler step.
Limits:   s_S = 0 and s_m = 0, or λ → −∞, is the original bit for bit; so is the empty prompt.
Fails by: anybody who holds the weights takes it off (audit: `guard`); strong settings change pictures that do not show the
          concept.
Deviations: the official pipeline batches the three predictions of a step; here a guard of the network asks for them, and knows
          a picture's beginning by its timestep, which rises. Asked at several timesteps at once (a training loss) it has no ν
          and no `warm_up`. UNets that predict the noise, as those of Stable Diffusion 1.x, of inpainting and of SDXL do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lethe.core.config import config
from lethe.core.families.diffusion import AroundNetwork, DiffusionTask
from lethe.core.guard import Guard
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.train.critic import require_noise
from lethe.train.loop import Loop

Strength = Literal["weak", "medium", "strong", "max"]
STRENGTHS: dict[Strength, tuple[int, float, float, float, float]] = {   # warm_up, s_S, λ, s_m, β       [official code]
    "weak": (15, 200.0, 0.0, 0.0, 0.0), "medium": (10, 1000.0, 0.01, 0.3, 0.4),
    "strong": (7, 2000.0, 0.025, 0.5, 0.7), "max": (0, 5000.0, 1.0, 0.5, 0.7),
}


@config
class SafeLatentDiffusion:
    """Options of safe latent diffusion."""

    strength: Strength = "medium"   # how much; max also of what is like it [tested in test_safe_latent_diffusion] [official code]
    words: str = ""                 # words to avoid; empty: the concepts [tested in test_safe_latent_diffusion] [paper]


def away(cond: Tensor, free: Tensor, unsafe: Tensor, scale: float, limit: float) -> Tensor:
    """μ ∘ (ε_S − ε_∅).  [n, …] ×3 -> [n, …]

    ε_c = 1, ε_∅ = 0, ε_S = 3, s_S = ¼, λ = 0: ε_c − ε_S = −2 < 0, μ = min(1, ½), ½ · 3 = 1.5; for ε_S = ½: 0.
    """
    apart = cond - unsafe
    return torch.where(apart < limit, (scale * apart.abs()).clamp(max=1), torch.zeros_like(apart)) * (unsafe - free)


class Steered(AroundNetwork, Guard):
    """A text-to-image UNet whose predictions for a prompt lead away from what `unsafe` names.

    unsafe, empty  conditions of the concept's words and of the empty prompt  [rows, d]
    """

    unsafe: Tensor
    empty: Tensor

    def __init__(self, model: nn.Module, unsafe: Tensor, empty: Tensor, strength: Strength) -> None:
        super().__init__(model)
        self.register_buffer("unsafe", unsafe.detach().clone(), persistent=False)
        self.register_buffer("empty", empty.detach().clone(), persistent=False)
        self.strength = strength
        self._last, self._step = -1.0, 0
        self._momentum: Tensor | None = None

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **given: Any) -> Any:
        said = self.model(sample, timestep, encoder_hidden_states=encoder_hidden_states, **given)
        named = ~(encoder_hidden_states == self.empty[: encoder_hidden_states.shape[1]]).flatten(1).all(1)
        if not bool(named.any()):
            return said
        where = torch.as_tensor(timestep, device=sample.device).expand(len(sample))[named]
        x, count = sample[named], int(named.sum())
        text = torch.cat([self.empty.expand(count, -1, -1), self.unsafe.expand(count, -1, -1)])
        both = self.further(torch.cat([x, x]), torch.cat([where, where]), text, encoder_hidden_states, given)[0]
        free, unsafe = both.chunk(2)
        said[0][named] -= self.guidance(said[0][named], free, unsafe, where)
        return said

    def guidance(self, cond: Tensor, free: Tensor, unsafe: Tensor, t: Tensor) -> Tensor:
        """g_i of the step at hand."""
        warm_up, scale, limit, share, decay = STRENGTHS[self.strength]
        plain = away(cond, free, unsafe, scale, limit)
        if bool((t != t[0]).any()):
            return plain
        if float(t[0]) >= self._last or self._momentum is None or self._momentum.shape != cond.shape:
            self._step, self._momentum = 0, torch.zeros_like(cond)
        found = plain + share * self._momentum
        self._momentum = decay * self._momentum + (1 - decay) * found
        self._last, self._step = float(t[0]), self._step + 1
        return found if self._step > warm_up else torch.zeros_like(found)

    def save(self, folder: Path) -> None:
        states = {"unsafe": self.unsafe, "empty": self.empty}
        save_file({name: value.contiguous().cpu() for name, value in states.items()}, folder / "states.safetensors")
        (folder / "strength.json").write_text(json.dumps(self.strength), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, model: nn.Module) -> Self:
        states = load_file(folder / "states.safetensors")
        return cls(model, states["unsafe"], states["empty"], json.loads((folder / "strength.json").read_text(encoding="utf-8")))


@method(needs={"original"}, uses={"concepts", "pipeline", "text", "tokens"}, mechanism="guard",
        check=lambda cfg, task: require_noise("safe_latent_diffusion", task))
def run(cfg: SafeLatentDiffusion, task: DiffusionTask, loop: Loop) -> Outcome:
    unsafe, empty = task.text(task.tokens([cfg.words or ", ".join(one.concept for one in task.concepts), ""]))
    device = loop.settings.device
    return loop.finish(loop.start(), guard=lambda model: Steered(model, unsafe.to(device), empty.to(device), cfg.strength))
