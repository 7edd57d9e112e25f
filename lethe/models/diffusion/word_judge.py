"""A judge for any text: whether a picture shows a concept's words, by how likely they make it beside the words that are left.

    the concept z is seen    L(f) > L(r)    f the picture's prompt, r the same without z; of a picture whose prompt names no z,
                                            log-means over the concept's prompts and over their rests
    what was asked is seen   L(c) > L(∅) and L(c) > L(f) for the concept's prompts f

L(c) the logarithm of how likely the picture and the text c belong together, up to a constant: of the frozen original
(`original_judge`), or of a model that compares pictures with texts (`clip_judge`). One that answers questions (`vlm_judge`) is
asked otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lethe.core.concepts import without
from lethe.core.families.diffusion import DiffusionTask

CONTEXTS = 4         # of a concept's prompts that stand for all, where a picture has no prompt of its own
ASKED = "what was asked"


class JudgeParts(ABC):
    """A model that was made elsewhere, read from its folder: it judges once a task says what the concepts are."""

    @abstractmethod
    def judge(self, task: DiffusionTask) -> WordJudge:
        """The judge of this task."""


class WordJudge(ABC):
    """A `PictureJudge` for any text: `concept` says whether a picture shows one of the concepts, what was asked, or neither;
    `rest` whether a picture for a prompt with the concept shows the rest of the prompt (0) or not (1)."""

    accuracy: Mapping[str, float] | None = None

    def __init__(self, task: DiffusionTask) -> None:
        self.task = task
        self.names = tuple(one.concept for one in task.concepts)
        self.attributes: Mapping[str, Sequence[str]] = {"concept": (*self.names, ASKED), "rest": (ASKED,)}

    @abstractmethod
    def look(self, pixels: Tensor) -> Tensor:
        """Pictures as they are compared with texts.  [n, 3, H', W'] -> [n, …]"""

    @abstractmethod
    def likelihoods(self, x: Tensor, prompts: Sequence[str]) -> Tensor:
        """L for each of m prompts.  [n, …] -> [m, n]"""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """What stands for a picture.  [n, …] -> [n, d]"""

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

    def read(self, pixels: Tensor, prompts: Sequence[str] | None = None) -> dict[str, Tensor]:
        """What pictures show that were drawn for these prompts.  [n, 3, H', W'] -> {name: [n]}"""
        x = self.look(pixels)
        asked = list(prompts) if prompts is not None else [""] * len(x)
        seen = {"concept": torch.full((len(x),), self._neither), "rest": torch.ones(len(x), dtype=torch.long)}
        for prompt in dict.fromkeys(asked):
            rows = torch.tensor([i for i, text in enumerate(asked) if text == prompt])
            found = self._named(x[rows], prompt) if self.task.names(prompt) else self._unnamed(x[rows], prompt)
            for key, values in found.items():
                seen[key][rows] = values
        return seen

    def features(self, pixels: Tensor) -> Tensor:
        """What stands for pictures, without asking what they show.  [n, 3, H', W'] -> [n, d]"""
        return self.embed(self.look(pixels))

    def _told(self, x: Tensor, prompts: Sequence[str]) -> Tensor:
        """L for each of m prompts, each distinct one asked once.  [n, …] -> [m, n]"""
        distinct = list(dict.fromkeys(prompts))
        return self.likelihoods(x, distinct)[[distinct.index(text) for text in prompts]]

    @property
    def _neither(self) -> int:
        return len(self.names) + 1

    def _named(self, x: Tensor, prompt: str) -> dict[str, Tensor]:
        named = self.task.named(prompt)
        assert named is not None
        whole, part, empty = self._told(x, [prompt, without(prompt, self.task.wordings), ""])
        place = self.names.index(named.concept)
        return {"concept": torch.where(whole > part, place, self._neither), "rest": (part <= empty).long()}

    def _unnamed(self, x: Tensor, prompt: str) -> dict[str, Tensor]:
        groups = [one.asked[:CONTEXTS] for one in self.task.concepts]
        concepts = [text for group in groups for text in group]
        m = len(concepts)
        told = self._told(x, [*concepts, *(without(text, self.task.wordings) for text in concepts), "", prompt])
        asked = told[-1] > torch.maximum(told[-2], told[:m].max(0).values)   # never where the prompt is empty
        sizes = [len(group) for group in groups]
        given, less = told[:m].split(sizes), told[m : 2 * m].split(sizes)
        gain, place = torch.stack([f.logsumexp(0) - r.logsumexp(0) for f, r in zip(given, less, strict=True)]).max(0)
        return {"concept": torch.where(asked, len(groups), torch.where(gain > 0, place, self._neither))}
