"""Interpret then deactivate (ItD): what a text encoder says of a prompt is written in a dictionary of many directions, and those
that the concept's prompts use alone are turned around; the weights stay. Tian, Xu, Nan & Wang (2025), arXiv:2503.09446.

    z = ReLU(top_k(E (h − μ)/s + β)),    F(p) = the m directions with the largest max_i z_i over the tokens i of p
    T = ∪_{p∈P} F(p) \\ ∪_{p∈K} F(p),    Δ_i = s Σ_{j∈T} (τ − 1) z_ij D_j    of every token but the start token
    h → h + Δ    where  Σ_i ‖Δ_i‖² / Σ_i ‖h_i‖² ≥ g · min_{p∈P} of the same,    else h stays

h the states behind one block of the text encoder, D, E, β, μ, s a dictionary that was learned from states of all kinds of prompts
(`train.sparse_codes`), P the concept's prompts, K those to keep and the empty one; the gate counts tokens up to the end token.
Needs:    original, and prompts, with the concept and to keep; no pictures.     Updates: nothing; the outcome is a guard.
Cost:     the dictionary once; then one more pass of the text encoder for each prompt.
Limits:   τ = 1 is the original; a prompt at which the gate stays shut is drawn as by the original, bit for bit.
Fails by: text states that somebody writes behind the text encoder pass unseen, and whoever holds the weights takes the guard off
          (audit: `guard`, `concept_inversion`). A kept word that no kept prompt has may be taken for the concept. What is left of
          a prompt draws what the model draws of no noun: on the preset 0.86, 0.77 and 0.86 of 3 originals (card: 0.9), where
          0.78, 0.72 and 0.88 of pictures without a prompt show no disk; the concept's own colours fall from 0.97 to 0.59 to 0.94,
          all other prompts are drawn as before. With a second concept, the first loses 0.03 to 0.12 of that. The dictionary of
          there explains 0.93 of its states (card: 0.95); twice the k explains 0.96 and erases no more. What is changed ranks the
          concept's prompts above 0.975 of others (of one, n=4 and 203), but the gate opens for 0.21 of random words with it.
Deviations: of the dictionary what it leaves of h stays (official code: h becomes its reconstruction, so all that the dictionary
          misses is lost, too), so only the rows of T are held. The gate is relative to ‖h‖² and counts no padding (official code:
          an absolute mean over padded tokens, and for celebrities the largest token). Directions that are silent in a prompt are
          not in F(p). States are scaled by s, the loss by their variance. Generic prompts are words of the vocabulary at random
          and those of `captions` (official code: captions of COCO), P and K a tenth of all. Padding counts where it is
          learned and where states are changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, config
from lethe.core.families.diffusion import AroundNetwork, DiffusionTask
from lethe.core.guard import Parts
from lethe.core.modules import device_of, hooked
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.errors import RequestError
from lethe.maths.sparse_codes import asked, coded
from lethe.train.erasing import whole_words
from lethe.train.loop import Loop
from lethe.train.sparse_codes import Coding, learned

BATCH, LONGEST = 64, 12   # prompts of one pass; words of a random prompt, at most


@config
class ItD(Coding):
    """Options of Interpret then deactivate."""

    latents: Count | None = None    # directions; null: 8 for each dimension of a state                [card]
    k: Count | None = None          # of them in a state; null: a twelfth of its dimensions            [official code: 64 of 768]
    tau: float = -8.0               # τ, of what the concept uses alone; 0 silences it; styles −6      [official code]
    features: Count = 128           # m, directions that count as used by a prompt; styles 256         [official code]
    gate: NonNegative = 0.99        # g, of the least change of a prompt with the concept              [official code]
    block: Natural | None = None    # of the text encoder, from 0; null: two thirds of them            [official code: 8 of 12]
    captions: tuple[str, ...] = ()  # further prompts to learn the dictionary from [e.g. a red kite]   [official code: COCO]
    words: Natural = 4096           # prompts of random words to learn it from                         [ours]


def used(codes: Tensor, real: Tensor, count: int) -> Tensor:
    """F(p) of each prompt.  [n, L, m], [n, L] bool -> [n, m] bool

    z = ((3, 0, 1), (0, 2, 0)) at two tokens: of one direction the first, of two the first and second, of five all three.
    """
    most = codes.where(real.unsqueeze(-1), 0).amax(1)
    value, place = most.topk(min(count, most.shape[1]), 1)
    return torch.zeros_like(most, dtype=torch.bool).scatter(1, place, value > 0)


def turned(codes: Tensor, directions: Tensor, tau: float) -> Tensor:
    """Σ_j (τ − 1) z_j D_j of every token but the first.  [n, L, t], [t, d] -> [n, L, d]

    z = 2 at the second token, D = (1, 0), τ = −8: 0 and (−18, 0).
    """
    change = (tau - 1) * codes @ directions
    return torch.cat([torch.zeros_like(change[:, :1]), change[:, 1:]], 1)


def share(change: Tensor, states: Tensor, real: Tensor) -> Tensor:
    """Σ_i ‖Δ_i‖² / Σ_i ‖h_i‖² over real tokens.  [n, L, d] ×2, [n, L] bool -> [n]

    Δ = (0, 3, 9), h = (1, 2, 5) at three tokens of which the second is real: 9/4.
    """
    part, whole = ((x.square().sum(-1) * real).sum(1) for x in (change, states))
    return part / whole.clamp(min=1e-12)


class Deactivated(AroundNetwork, Parts):
    """A network whose prompts are read without what the concept uses alone.

    reads [m, d], bias [m]  of the whole dictionary     says [t, d], latents [t]  the directions of T, and which they are
    centre [d], scale []  μ and s     block  name of the text encoder's block     least  of the gate     end  id of the end token
    """

    reads: Tensor
    bias: Tensor
    says: Tensor
    latents: Tensor
    centre: Tensor
    scale: Tensor
    block: str
    k: int
    tau: float
    least: float
    end: int

    def forward(self, *given: Any, **options: Any) -> Any:
        return self.model(*given, **options)

    def change(self, states: Tensor) -> Tensor:
        """Δ.  [n, L, d] -> [n, L, d]"""
        before = asked(states, self.centre, self.scale, self.reads, self.bias)
        return self.scale * turned(coded(before.flatten(0, 1), self.k).view_as(before)[..., self.latents], self.says, self.tau)

    @contextmanager
    def reading(self, encoder: nn.Module) -> Iterator[list[Tensor]]:
        seen: list[Tensor] = []

        def edit(ids: Tensor, states: Tensor) -> Tensor:
            h = states.to(self.centre)
            change = self.change(h)
            seen.append(share(change, h, real(ids.to(h.device), self.end)) >= self.least)
            return torch.where(seen[-1].view(-1, 1, 1).to(states.device), states + change.to(states), states)

        with behind(encoder, self.block, edit):
            yield seen


@contextmanager
def behind(encoder: nn.Module, block: str, edit: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Inside, what a block of the encoder says is edited by (token ids, states)."""
    ids: list[Tensor] = []

    def noted(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        ids[:] = [args[0] if args else given["input_ids"]]

    def said(_: nn.Module, __: Any, out: Any) -> Any:   # transformers before 5: (states, …)
        return (edit(ids[0], out[0]), *out[1:]) if isinstance(out, tuple) else edit(ids[0], out)

    with hooked(encoder.register_forward_pre_hook(noted, with_kwargs=True),
                encoder.get_submodule(block).register_forward_hook(said)):
        yield


def real(ids: Tensor, end: int) -> Tensor:
    """Which tokens stand behind the start token, to the first end token, which counts.  [n, L] -> [n, L] bool

    (start, 7, end, end): the second and third.
    """
    place = torch.arange(ids.shape[1], device=ids.device)
    return (place > 0) & (place <= (ids == end).int().argmax(1, keepdim=True))


def block_of(encoder: nn.Module, number: int | None) -> str:
    """The name of a block. RequestError where there is none of this number."""
    names: list[str] = [name for name, _ in encoder.named_modules() if re.search(r"(^|\.)layers\.\d+$", name)]
    if number is not None and number >= len(names):
        raise RequestError(f"method.block = {number}, but the text encoder has {len(names)} blocks, numbered from 0, so there is "
                           "nothing to read; nothing was started. Lower it.")
    return names[2 * len(names) // 3 if number is None else number]


def check(cfg: ItD, task: DiffusionTask) -> None:
    """RequestError where nothing is to be kept, or prompts are read by more than one encoder of CLIP."""
    if not task.prompts.get("keep"):
        raise RequestError("itd takes for the concept what no kept prompt uses, and there are none in data.keep, so every word "
                           "of the concept's prompts would go; nothing was started. Provide prompts that share the others.")
    if not task.has("encoder"):
        raise RequestError("itd stands in the one text encoder of CLIP that a UNet reads, and this is a "
                           f"{type(task.original).__name__} that reads more; nothing was started. Choose another, e.g. esd.")
    block_of(task.pipeline.text_encoder, cfg.block)


@method(needs={"original"}, uses={"pipeline", "prompts", "sample", "tokens"}, mechanism="guard", check=check)
def run(cfg: ItD, task: DiffusionTask, loop: Loop) -> Outcome:
    encoder, end = task.pipeline.text_encoder, task.pipeline.tokenizer.eos_token_id
    block = block_of(encoder, cfg.block)
    gone, kept = task.prompts["forget"], [*task.prompts["keep"], ""]
    prompts, generic = [*gone, *kept], [*cfg.captions, *random_prompts(cfg, task, loop)]
    ids, states = said_behind(task, encoder, block, [*prompts, *generic])
    often = max(1, round(len(generic) / (9 * len(prompts))))   # a tenth of what the dictionary sees is what it is for
    device, count = loop.settings.device, len(prompts)
    seen = torch.cat([states[:count].repeat(often, 1, 1), states[count:]])[:, 1:].flatten(0, 1)
    width = seen.shape[1]
    known = learned(cfg, task, loop, seen, cfg.latents or 8 * width, cfg.k or max(1, round(width / 12)))
    some, counted = states[:count].to(device), real(ids[:count], end).to(device)
    with torch.no_grad():
        codes = coded(known.before(some.flatten(0, 1)), known.k).view(*some.shape[:2], -1)
    by_prompt = used(codes, counted, cfg.features)
    latents = (by_prompt[: len(gone)].any(0) & ~by_prompt[len(gone) :].any(0)).nonzero().flatten()
    parts: dict[str, Any] = {
        "reads": known.reads, "bias": known.bias, "says": known.directions()[latents], "latents": latents,
        "centre": known.centre, "scale": known.scale, "block": block, "k": known.k, "tau": cfg.tau, "end": end}
    changed = share(Deactivated(task.original, least=0.0, **parts).change(some), some, counted)[: len(gone)]
    if not bool((changed > 0).any()):
        raise RequestError("no direction is used by prompts with the concept alone, so nothing could be turned off, and "
                           "nothing was saved. Raise method.latents or method.epochs, or lower method.features.")
    least = cfg.gate * float(changed[changed > 0].min())
    loop.note(f"{len(latents)} directions are the concept's alone, in {int((changed > 0).sum())} of {len(gone)} prompts; what "
              "the text encoder says of them is changed, and nothing was removed")
    return loop.finish(loop.start(), guard=lambda model: Deactivated(model, least=least, **parts))


def said_behind(task: DiffusionTask, encoder: nn.Module, block: str, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids of prompts, and the states of all their tokens behind a block.  -> [n, L], [n, L, d]"""
    ids, found = task.tokens(prompts), list[Tensor]()

    def keep(_: Tensor, states: Tensor) -> Tensor:
        found.append(states.float().cpu())
        return states

    with behind(encoder, block, keep), torch.no_grad():
        for some in ids.split(BATCH):
            encoder(some.to(device_of(encoder)))
    return ids, torch.cat(found)


def random_prompts(cfg: ItD, task: DiffusionTask, loop: Loop) -> list[str]:
    """Prompts of one to `LONGEST` words of the vocabulary."""
    rng, known = loop.generator("itd", "words"), whole_words(task)
    counts = torch.randint(1, LONGEST + 1, (cfg.words,), generator=rng).tolist()
    return [" ".join(known[i] for i in torch.randint(len(known), (count,), generator=rng).tolist()) for count in counts]
