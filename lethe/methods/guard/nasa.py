"""Negative-away steer attention (NASA): each place of a picture looks at the concept's words, too, and what it finds there is
taken from what it finds in the prompt; the weights stay. Nguyen et al. (2024), "Supercharged One-step Text-to-Image Diffusion
Models with Negative Prompts" (first SNOOPI), arXiv:2412.02687 (ICCV 2025).

    Z± = softmax(Q K±ᵀ / √d) V±,    Z = Z⁺ − α Z⁻    in every layer of cross-attention, before its output projection

Q the queries of the picture, K⁺, V⁺ keys and values of the prompt, K⁻, V⁻ those of the concept's words by the same projections,
d the width of a head, α ≥ 0. It needs no second prediction, so it acts in one step and without guidance, too.
Needs:    original, and the concept's words; no pictures, no steps.     Updates: nothing; the outcome is a guard.
Cost:     every layer of cross-attention is asked twice, with takes=shared three times.
Limits:   α = 0 is the original bit for bit; at α = 1 a picture for the concept's words alone hears nothing of them.
Fails by: taking from other prompts, too, what the concept's words share with them. On the preset shapes_erase (3 originals, 64
          pictures with the concept, 60 of kept prompts and 60 outside, no guidance), share without the concept, kept and outside
          shapes right: originals 0.10, 0.94, 0.95; α = ½ 0.32, 0.88, 0.88 (of one original the watchdog took it back); α = 1
          0.83, 0.56, 0.60 (of all three). With takes=shared: α = 1 0.68, 0.92, 0.93; α = 2 0.95, 0.80, 0.87. In 4 steps
          (originals 0.27, 0.86, 0.86): α = ½ 0.49, 0.81, 0.78; shared, α = 2 0.96, 0.71, 0.83, where safe_latent_diffusion at
          strength=medium, which waits for 10 steps, changes nothing. In one step, and under guidance, nothing was measured: the
          preset's model draws nothing sound so. Whoever holds the weights takes it off (audit: `guard`).
Deviations: takes=shared is ours: Z = Z⁺ − α max(0, ⟨Z⁺ − Z°, u⟩ / ⟨u, u⟩) u, u = Z⁻ − Z°, Z° what is found in the empty prompt.
          All rows of a batch are steered, the empty prompt's, too, so that both halves of guidance are treated alike. The paper
          also steers the joint attention of FLUX, in a way that its main part does not say: such networks are refused here. Left
          out: its training of students with Z (NASA-T). SDXL's pooled text passes beside these layers, as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lethe.core.config import NonNegative, config
from lethe.core.families.diffusion import AroundNetwork, DiffusionTask
from lethe.core.guard import Parts
from lethe.core.modules import hooked
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.errors import RequestError
from lethe.train.loop import Loop


@config
class NASA:
    """Options of negative-away steer attention."""

    alpha: NonNegative = 0.5   # α, how far away; SD 1.5 0.1, SD 2.1 0.2, PixArt 0.5; "shared" up to 2      [paper, ours]
    words: str = ""            # the negative prompt; empty: the concepts [e.g. square]                    [paper]
    takes: Literal["all", "shared"] = "all"   # what goes: α Z⁻, or only what the prompt has of it         [paper; shared: ours]


def turned(found: Tensor, unwanted: Tensor, alpha: float) -> Tensor:
    """Z⁺ − α Z⁻.  [n, S, d] ×2 -> [n, S, d]

    One query of width 1 (d = 1), q = ln 3; prompt: k = (1, 0), v = (4, 8), weights (¾, ¼): Z⁺ = 5; words: k = (0, 0), v = (2, 6):
    Z⁻ = 4; α = ½: 5 − 2 = 3.
    """
    return found - alpha * unwanted


def freed(found: Tensor, unwanted: Tensor, nothing: Tensor, alpha: float) -> Tensor:
    """Z⁺ − α max(0, ⟨Z⁺ − Z°, u⟩ / ⟨u, u⟩) u,  u = Z⁻ − Z°.  [n, S, d] ×3 -> [n, S, d]

    Z° = (0, 1), Z⁻ = (2, 1), Z⁺ = (3, 5), α = 1: u = (2, 0), 6/4 · u = (3, 0), left (0, 5). Z⁺ = (−3, 5) leads away already.
    """
    towards = unwanted - nothing
    along = ((found - nothing) * towards).sum(-1, keepdim=True).clamp(min=0)
    size = towards.square().sum(-1, keepdim=True)
    return found - alpha * along / size.clamp(min=torch.finfo(size.dtype).tiny) * towards


@contextmanager
def steered(model: nn.Module, layers: Sequence[str], states: Tensor, ends: Sequence[int], alpha: float) -> Iterator[None]:
    """Inside, these layers of cross-attention turn away from what they find in `states`: of the words, or of these and the empty
    prompt  [1 or 2, L, d].

    ends  places of their end tokens: where a layer masks its prompt's padding, what is behind them is padding, too
    """
    seen: dict[nn.Module, list[Tensor]] = {}

    def look(layer: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        x: Tensor = args[0] if args else given["hidden_states"]
        for said, end in zip(states, ends, strict=True):
            read = said if given.get("attention_mask") is None else said[: end + 1]
            layer.forward(x, encoder_hidden_states=read.to(x).expand(len(x), -1, -1))   # `turn` keeps what it finds

    def turn(projection: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        found = seen.setdefault(projection, [])
        if len(found) < len(states):
            found.append(args[0])
            return None
        unwanted, *nothing = seen.pop(projection)
        return (freed(args[0], unwanted, nothing[0], alpha) if nothing else turned(args[0], unwanted, alpha), *args[1:])

    asked = [model.get_submodule(name) for name in layers]
    with hooked(*(layer.register_forward_pre_hook(look, with_kwargs=True) for layer in asked),
                *(layer.get_submodule("to_out.0").register_forward_pre_hook(turn) for layer in asked)):
        yield


class Averted(AroundNetwork, Parts):
    """A network whose layers of cross-attention turn away from words: `steered`."""

    states: Tensor
    layers: list[str]
    ends: list[int]
    alpha: float

    def forward(self, *given: Any, **options: Any) -> Any:
        with steered(self.model, self.layers, self.states, self.ends, self.alpha):
            return self.model(*given, **options)


def crossings(task: DiffusionTask) -> list[str]:
    """Names of the layers of cross-attention. RequestError where there are none."""
    network = task.original
    found = list(dict.fromkeys(name.rpartition(".")[0] for name in task.attention_projections(network)))
    if not found or not all(hasattr(network.get_submodule(name), "to_out") for name in found):
        raise RequestError(f"nasa steers layers of cross-attention, which read a prompt alone, and a {type(network).__name__} "
                           "has none; nothing was started. Choose a method that changes weights, e.g. esd or gem.")
    return found


def sound(cfg: NASA, task: DiffusionTask) -> None:
    """RequestError where there is nothing to steer."""
    crossings(task)


@method(needs={"original"}, uses={"attention_projections", "concepts", "tokens", "words"}, mechanism="guard",
        check=sound)
def run(cfg: NASA, task: DiffusionTask, loop: Loop) -> Outcome:
    layers, words = crossings(task), cfg.words or ", ".join(one.concept for one in task.concepts)
    (read,) = task.words(task.tokens([words, ""] if cfg.takes == "shared" else [words]))
    states, ends = read.states.to(loop.settings.device), read.end.tolist()
    loop.note(f"{len(layers)} layers of cross-attention turn away from what they find in the concept's words, and nothing was "
              "removed")
    return loop.finish(loop.start(), guard=lambda model: Averted(
        model, states=states, layers=layers, ends=ends, alpha=cfg.alpha))
