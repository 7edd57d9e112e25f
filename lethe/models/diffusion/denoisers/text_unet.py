"""Stable Diffusion 1.x and 2.x: a UNet that reads the states of one text encoder. Inpainting networks, too: they see a picture
that is masked everywhere, so that they draw all of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.families.diffusion import Words
from lethe.errors import ModelError
from lethe.models.diffusion.denoiser import Denoiser, ends, settings


class TextUNet(Denoiser):
    """ε(x_t, t, states of the text encoder's last layer)."""

    networks = ("UNet2DConditionModel",)
    alone = True

    @classmethod
    def fits(cls, network: nn.Module) -> bool:
        """A plain text-to-image UNet, or a network of one's own that is called like one."""
        own = not type(network).__module__.startswith("diffusers.")
        return own or (super().fits(network) and not settings(network).get("addition_embed_type"))

    def check(self) -> None:
        if self.parts.text_encoder is None or self.parts.tokenizer is None:
            raise ModelError("the UNet reads text, but the pipeline has no text_encoder or no tokenizer, so no prompt could be "
                             "encoded. Add the two folders.")
        if self.config.get("class_embed_type") or self.config.get("encoder_hid_dim_type"):
            beside = self.config.get("class_embed_type") or self.config["encoder_hid_dim_type"]
            raise ModelError(f"the UNet also reads {beside!r}, which nothing here provides, so its"
                             " predictions would be wrong. Use a text-to-image pipeline.")
        self._blank: Tensor | None = None

    @property
    def channels(self) -> int:
        return int(self.config.get("out_channels", self.config.get("in_channels", 3)))

    @property
    def readers(self) -> list[tuple[Any, int]]:
        return [(self.parts.tokenizer, self.parts.tokenizer.model_max_length)]

    def condition(self, tokens: Tensor) -> Tensor:
        encoder = self.parts.text_encoder
        states: Tensor = encoder(tokens.to(next(encoder.parameters()).device))[0]
        return states

    def words(self, network: nn.Module, tokens: Tensor, states: Tensor) -> list[Words]:
        return [Words(states, ends(self.parts.tokenizer, tokens))]

    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor, strength: float = 1.0) -> Tensor:
        said: Tensor = network(self.seen(x_t), t, encoder_hidden_states=condition).sample
        return said

    def seen(self, x_t: Tensor) -> Tensor:
        """x_t with what an inpainting network sees beside it: the mask, one everywhere, and the latents of a grey picture."""
        beside = int(self.config.get("in_channels", 0)) - self.channels
        if not beside:
            return x_t
        if beside != self.channels + 1:
            raise ModelError(f"the UNet takes {self.config['in_channels']} channels and returns {self.channels}; only inpainting "
                             f"networks, with {2 * self.channels + 1}, are known here. Use a text-to-image pipeline.")
        if self._blank is None:
            vae: Any = self.parts.vae
            factor = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
            self._blank = self.parts.encode(torch.zeros(1, 3, *(side * factor for side in x_t.shape[2:])))
        blank = self._blank.to(x_t).expand(len(x_t), -1, -1, -1)
        return torch.cat([x_t, torch.ones_like(x_t[:, :1]), blank], 1)
