"""The original as judge: what a picture shows, by how well the frozen original explains it with and without some words.

    L(c) = −½ ∫_{α ≤ 0} E_ε ‖ε − ε_0(x_α, c)‖² dα = log p_0(x_1|c) + const      for each condition c, with the same noise for all
    the concept z is seen        L(f) > L(r)     f the picture's prompt, r the same without z; of a picture whose prompt names
                                                 no z, log-means over the concept's prompts and over their rests
    what was asked is seen       L(c) > L(∅) and L(c) > L(f) for the concept's prompts f

α the log-SNR, x_1 the picture under as much noise as signal: what is drawn is decided above this noise, and below it a trained
network's errors are larger than what the words tell. On 288 pictures of one original of coloured shapes and one edit of it the
AUC for the concept is 0.99 and agreement with a trained classifier 96 % (24 levels, two draws of noise; all levels: 0.90 and 85
%). The cut was chosen on these very pictures, so on others expect less. It knows every text that the original knows, so it
needs no classifier and no labels. It sees no more than the original: what the original cannot tell apart, it cannot judge; and
a method that asks the same judge while it erases (`mim_mu`) is looked at with the glasses that it wore.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lethe.core.concepts import without
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import evaluating
from lethe.core.split import Batch
from lethe.maths.information import noise_levels, surprises

LEVELS = 16          # noise levels
CONTEXTS = 4         # of the concept's prompts that stand for all, where a picture has no prompt of its own
ASKED = "what was asked"
SIZE = 16            # pictures at once; each is seen under several conditions


class OriginalJudge:
    """A `PictureJudge` for any text: `concept` says whether a picture shows one of the concepts, what was asked, or neither;
    `rest` whether a picture for a prompt with the concept shows the rest of the prompt (0) or not (1)."""

    accuracy: Mapping[str, float] | None = None

    def __init__(self, task: DiffusionTask, seed: int = 0) -> None:
        self.task, self.seed = task, seed
        self.names = tuple(one.concept for one in task.concepts)
        self.attributes: Mapping[str, Sequence[str]] = {"concept": (*self.names, ASKED), "rest": (ASKED,)}

    def attribute_of(self, concept: str) -> str | None:
        """`concept`, for a concept of the task."""
        return "concept" if concept in self.names else None

    def shows(self, seen: Mapping[str, Tensor], concept: str) -> Tensor:
        """Which pictures show the concept.  {name: [n]} -> [n]"""
        return seen["concept"] == self.names.index(concept)

    def expected(self, prompt: str) -> dict[str, int]:
        """The concept where the prompt names it, and the rest of the prompt where there is one; else what was asked."""
        if (named := self.task.named(prompt)) is None:
            return {"concept": len(self.names)} if prompt.strip() else {}
        place = self.names.index(named.concept)
        return {"concept": place, "rest": 0} if without(prompt, self.task.wordings) else {"concept": place}

    def read(self, pixels: Tensor, prompts: Sequence[str] | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """What pictures [n, 3, H', W'] show that were drawn for these prompts, and their features.  -> {name: [n]}, [n, d]"""
        with evaluating(self.task.model):
            x = torch.cat([self.task.encode(some) for some in pixels.split(SIZE)])
            asked = list(prompts) if prompts is not None else [""] * len(x)
            seen = {"concept": torch.full((len(x),), self._neither), "rest": torch.ones(len(x), dtype=torch.long)}
            for prompt in dict.fromkeys(asked):
                rows = torch.tensor([i for i, text in enumerate(asked) if text == prompt])
                found = self._named(x[rows], prompt) if self.task.names(prompt) else self._unnamed(x[rows], prompt)
                for key, values in found.items():
                    seen[key][rows] = values
            return seen, self._features(x)

    def gained(self, x: Tensor, concept: str, rest: str) -> Tensor:
        """i_0(x; z | r) = log p_0(x|c) / p_0(x|r) of pictures as the network sees them.  -> [n], in nats"""
        given, less = self._likelihoods(x, [concept, rest])
        gain: Tensor = given - less
        return gain

    @property
    def _neither(self) -> int:
        return len(self.names) + 1

    def _named(self, x: Tensor, prompt: str) -> dict[str, Tensor]:
        named = self.task.named(prompt)
        assert named is not None
        whole, part, empty = self._likelihoods(x, [prompt, without(prompt, self.task.wordings), ""])
        place = self.names.index(named.concept)
        return {"concept": torch.where(whole > part, place, self._neither), "rest": (part <= empty).long()}

    def _unnamed(self, x: Tensor, prompt: str) -> dict[str, Tensor]:
        groups = [one.asked[:CONTEXTS] for one in self.task.concepts]
        concepts = [text for group in groups for text in group]
        m = len(concepts)
        told = self._likelihoods(x, [*concepts, *(without(text, self.task.wordings) for text in concepts), "", prompt])
        asked = told[-1] > torch.maximum(told[-2], told[:m].max(0).values)   # never where the prompt is empty
        sizes = [len(group) for group in groups]
        given, less = told[:m].split(sizes), told[m : 2 * m].split(sizes)
        gain, place = torch.stack([f.logsumexp(0) - r.logsumexp(0) for f, r in zip(given, less, strict=True)]).max(0)
        return {"concept": torch.where(asked, len(groups), torch.where(gain > 0, place, self._neither))}

    def _likelihoods(self, x: Tensor, prompts: Sequence[str]) -> Tensor:
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

    def _features(self, x: Tensor) -> Tensor:
        """The original's features at a quarter of the schedule, without a prompt.  -> [n, d]"""
        task = self.task
        device, t = next(task.model.parameters()).device, len(task.alphas_cumprod) // 4
        noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(self.seed))
        found = []
        for some in x.split(64):
            n = len(some)
            columns = {"image": some, "tokens": task.tokens([""]).expand(n, -1), "t": torch.full((n,), t),
                       "noise": noise.expand_as(some)}
            found.append(task.features(task.model, Batch(columns, torch.arange(n)).to(device)).float().cpu())
        return torch.cat(found)
