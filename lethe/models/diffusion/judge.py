"""Judge: a closed-set classifier that reads what a generated picture shows, one answer per attribute."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lethe.core.modules import device_of, evaluating, hooked


@dataclass(eq=False)
class Judge:
    """`model` maps pixels [n, C, H, W] in [−1, 1] to logits [n, ΣK], the attributes' values one after the other.

    attributes  attribute -> its values, e.g. {"colour": ("red", …), "shape": ("disk", …)}
    accuracy    share of held-out real pictures read correctly, by attribute; what its verdicts are worth
    """

    model: nn.Module
    attributes: Mapping[str, Sequence[str]]
    accuracy: Mapping[str, float] | None = None

    def read(self, pixels: Tensor, prompts: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Position of the seen value by attribute.  [n, C, H, W] -> {name: [n]}"""
        sizes = [len(values) for values in self.attributes.values()]
        logits = self._asked(pixels)
        return {name: part.argmax(1) for name, part in zip(self.attributes, logits.split(sizes, 1), strict=True)}

    def features(self, pixels: Tensor) -> Tensor:
        """What enters the last linear layer.  [n, C, H, W] -> [n, d]"""
        last = [m for m in self.model.modules() if isinstance(m, nn.Linear)][-1]
        caught: list[Tensor] = []
        with hooked(last.register_forward_pre_hook(lambda _, args: caught.append(args[0]))):
            self._asked(pixels)
        return torch.cat(caught).flatten(1).float().cpu()

    def _asked(self, pixels: Tensor) -> Tensor:
        """The logits of all attributes.  [n, C, H, W] -> [n, ΣK]"""
        device = device_of(self.model)
        with evaluating(self.model):
            return torch.cat([self.model(part.to(device)) for part in pixels.split(512)]).cpu()

    def attribute_of(self, concept: str) -> str | None:
        """The attribute that has `concept` among its values, or None."""
        return next((name for name, values in self.attributes.items() if concept in values), None)

    def shows(self, seen: Mapping[str, Tensor], concept: str) -> Tensor:
        """Which pictures show `concept`, a value of one of the attributes.  {name: [n]} -> [n]"""
        name, values = next(item for item in self.attributes.items() if concept in item[1])
        return seen[name] == list(values).index(concept)

    def expected(self, prompt: str) -> dict[str, int]:
        """What a prompt asks for: attribute -> position of the value that it names; other attributes are absent."""
        words = re.findall(r"\w+", prompt.lower())
        named = ((name, place, value) for name, values in self.attributes.items() for place, value in enumerate(values))
        return {name: place for name, place, value in named if value in words}
