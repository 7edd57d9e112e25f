"""Stable Diffusion XL: a UNet that reads two text encoders side by side, their pooled text, and the picture's size and crop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.families.diffusion import Words
from lethe.errors import ModelError
from lethe.models.diffusion.denoiser import ends, hidden, packed, settings, unpacked
from lethe.models.diffusion.denoisers.text_unet import UNet


class SDXL(UNet):
    """ε(x_t, t, states of both encoders' last layer but one, pooled states of the second, size and crop)."""

    networks = ("UNet2DConditionModel",)

    @classmethod
    def fits(cls, network: nn.Module) -> bool:
        return super().fits(network) and bool(settings(network).get("addition_embed_type"))

    def check(self) -> None:
        kind, others = self.config["addition_embed_type"], self.parts.others
        if kind != "text_time" or self.parts.text_encoder is None or "text_encoder_2" not in others:
            there = ["text_encoder"] * (self.parts.text_encoder is not None) + list(others)
            raise ModelError(f"the UNet adds {kind!r} to what it reads, and the pipeline has {' and '.join(there)}: a refiner or "
                             "another relative of SDXL, which draws from a picture and not from text. Use the base pipeline.")
        super().check()

    @property
    def readers(self) -> list[tuple[Any, int]]:
        return [(words, words.model_max_length) for words in self._tokenizers]

    def condition(self, tokens: Tensor) -> Tensor:
        states = self.encoded(tokens)
        if self.parts.options.get("force_zeros_for_empty_prompt", True):   # what this pipeline means by no prompt
            empty = (tokens == self.tokens([""])).all(1)
            states = states * ~empty.view(-1, 1, 1).to(states.device)
        return states

    def encoded(self, tokens: Tensor) -> Tensor:
        """As `condition`, with the empty prompt as the encoders read it."""
        first, second = tokens.split([words.model_max_length for words in self._tokenizers], 1)
        one, two = hidden(self.parts.text_encoder, first), hidden(self.parts.others["text_encoder_2"], second)
        return packed(torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1), two.text_embeds)

    def words(self, network: nn.Module, tokens: Tensor, states: Tensor) -> list[Words]:
        return [Words(self._parted(self.encoded(tokens))[0], ends(self._tokenizers[0], tokens[:, :self._length]))]

    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor, strength: float = 1.0) -> Tensor:
        states, pooled = self._parted(condition)
        height, width = (side * self.parts.factor for side in x_t.shape[2:])
        sizes = torch.tensor([height, width, 0, 0, height, width]).to(x_t).expand(len(x_t), -1)
        said: Tensor = network(self.seen(x_t), t, encoder_hidden_states=states, **self.guided(x_t, strength),
                               added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
        return said

    @property
    def _tokenizers(self) -> tuple[Any, Any]:
        return self.parts.tokenizer, self.parts.others["tokenizer_2"]

    @property
    def _length(self) -> int:
        return int(self.parts.tokenizer.model_max_length)

    def _parted(self, condition: Tensor) -> tuple[Tensor, ...]:
        return unpacked(condition, self.parts.others["text_encoder_2"].config.projection_dim)
