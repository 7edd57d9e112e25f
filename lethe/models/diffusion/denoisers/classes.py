"""Networks without text: those that read a class (UNet2DModel, DiT), whose prompts are names or numbers of classes, and those
that read nothing (DDPM). The class is the whole condition: one row, one number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lethe.core.families.diffusion import Role
from lethe.errors import ModelError, RequestError
from lethe.models.diffusion.denoiser import Denoiser, settings

TEXT = frozenset({"words", "attention_projections", "attention_maps", "named_tokens"})


class ClassUNet(Denoiser):
    """ε(x_t, t, class); the last class is the empty prompt unless every class has a name."""

    networks = ("UNet2DModel",)
    roles: ClassVar[Mapping[Role, tuple[str, ...]]] = {"cross": ("class_embedding*",)}
    lacks = TEXT
    without = "a network that reads classes and no text (it has no keys and values of text)"

    @classmethod
    def fits(cls, network: nn.Module) -> bool:
        config = settings(network)
        return super().fits(network) and bool(config.get("num_class_embeds") or config.get("class_embed_type"))

    def check(self) -> None:
        if self.config.get("class_embed_type"):
            raise ModelError(f"the UNet reads its class as {self.config['class_embed_type']!r}, not as a number, so prompts mean "
                             "nothing to it. Use a network with num_class_embeds.")

    @property
    def count(self) -> int:
        """Classes, without the empty one."""
        rows = int(self.config["num_class_embeds"])
        return rows if len(self.names) == rows else rows - 1

    @property
    def empty(self) -> int:
        """The class that means no class."""
        if self.count == int(self.config["num_class_embeds"]):
            raise RequestError("the network has a class for every name and none for no class, so there is nothing that it draws "
                               "without a prompt, and no guidance. Choose a method without an empty prompt, and guidance 1.")
        return self.count

    @property
    def names(self) -> dict[str, int]:
        """Names of the classes, where the pipeline tells them: `a, b` names one class twice."""
        labels: dict[str, str] = self.parts.options.get("id2label", {})
        return {name.strip().lower(): int(i) for i, text in labels.items() for name in text.split(",")}

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([[self.label(prompt)] for prompt in prompts])

    def label(self, prompt: str) -> int:
        """The class that a prompt names: its number, its name, or the one name that stands in it."""
        text, names = prompt.strip().lower(), self.names
        if not text:
            return self.empty
        if text in names:
            return names[text]
        if text.isdecimal() and int(text) < self.count:
            return int(text)
        found = {place for name, place in names.items() if re.search(rf"\b{re.escape(name)}\b", text)}
        if len(found) != 1:
            some = ", ".join(list(names)[:4]) or f"0 to {self.count - 1}"
            raise RequestError(f"the prompt {prompt!r} names {len(found)} classes, but this network reads exactly one and no "
                               f"text; nothing was started. Write a class as a prompt: {some}.")
        return found.pop()

    def condition(self, tokens: Tensor) -> Tensor:
        return tokens.float().unsqueeze(2)

    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor, strength: float = 1.0) -> Tensor:
        said: Tensor = network(x_t, t, class_labels=condition[:, 0, 0].round().long()).sample
        return said[:, : self.channels]


class DiT(ClassUNet):
    """A transformer whose norms read the class; the row behind the last class is the empty prompt."""

    networks = ("DiTTransformer2DModel",)
    roles: ClassVar[Mapping[Role, tuple[str, ...]]] = {"cross": ("*norm1.emb.class_embedder*",)}

    @classmethod
    def fits(cls, network: nn.Module) -> bool:
        return type(network).__name__ in cls.networks

    def check(self) -> None:
        for module in self.parts.network.modules():
            if type(module).__name__ == "LabelEmbedding":
                vars(module)["dropout_prob"] = 0.0   # it would empty classes at random while a method trains

    @property
    def count(self) -> int:
        return int(self.config["num_embeds_ada_norm"])

    @property
    def empty(self) -> int:
        return self.count

    def middle(self, network: nn.Module) -> nn.Module:
        blocks: Any = network.get_submodule("transformer_blocks")
        found: nn.Module = blocks[len(blocks) // 2]
        return found


class Unconditional(Denoiser):
    """ε(x_t, t)."""

    networks = ("UNet2DModel",)
    roles: ClassVar[Mapping[Role, tuple[str, ...]]] = {}
    lacks = TEXT | {"text", "tokens", "prompts", "concept", "concepts", "rest", "relabel", "layers", "denoise", "sample",
                    "draw_from"}
    without = "an unconditional network (it reads no prompt)"

    @classmethod
    def fits(cls, network: nn.Module) -> bool:
        config = settings(network)
        return super().fits(network) and not config.get("num_class_embeds") and not config.get("class_embed_type")

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts), 1, dtype=torch.long)

    def condition(self, tokens: Tensor) -> Tensor:
        return tokens.float().unsqueeze(2)

    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor, strength: float = 1.0) -> Tensor:
        said: Tensor = network(x_t, t).sample
        return said[:, : self.channels]
