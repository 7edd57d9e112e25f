"""Stable Diffusion 1.x and 2.x: a UNet that reads the states of one text encoder. Inpainting networks, too: they see a picture
that is masked everywhere, so that they draw all of it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lethe.core.families.diffusion import Words
from lethe.errors import ModelError
from lethe.models.diffusion.denoiser import Denoiser, ends, settings

BESIDE = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type")   # of configurations: what else a UNet may read


class UNet(Denoiser):
    """What UNets that read text may read beside it: the strength of guidance that they are distilled with, and, for inpainting,
    a picture and its mask."""

    networks: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        """ModelError for a network that reads something else, too."""
        self.distilled, self._blank = bool(self.config.get("time_cond_proj_dim")), torch.empty(0)
        if beside := next((self.config[key] for key in BESIDE if self.config.get(key)), None):
            raise ModelError(f"the UNet also reads {beside!r}, which nothing here provides, so its"
                             " predictions would be wrong. Use a text-to-image pipeline.")
        if self.beside not in (0, self.channels + 1):
            raise ModelError(f"the UNet takes {self.config['in_channels']} channels and returns {self.channels}; only inpainting "
                             f"networks, with {2 * self.channels + 1}, are known here. Use a text-to-image pipeline.")

    @property
    def channels(self) -> int:
        return int(self.config.get("out_channels", self.config.get("in_channels", 3)))

    @property
    def beside(self) -> int:
        """Channels that it sees beside those of x_t."""
        return int(self.config.get("in_channels", self.channels)) - self.channels

    def guided(self, x_t: Tensor, strength: float) -> dict[str, Tensor]:
        """The strength w of guidance as an argument, where it is one: sines and cosines of 1000 (w − 1) f, f from 1 to 10⁻⁴."""
        if not self.distilled:
            return {}
        size = int(self.config["time_cond_proj_dim"])
        angles = 1000 * (strength - 1) * torch.logspace(0, -4, size // 2)
        waves = nn.functional.pad(torch.cat([angles.sin(), angles.cos()]), (0, size % 2))
        return {"timestep_cond": waves.to(x_t).expand(len(x_t), -1)}

    def seen(self, x_t: Tensor) -> Tensor:
        """x_t with what an inpainting network sees beside it: the mask, one everywhere, and the latents of a grey picture."""
        if not self.beside:
            return x_t
        if not len(self._blank):
            self._blank = self.parts.encode(torch.zeros(1, 3, *(side * self.parts.factor for side in x_t.shape[2:])))
        blank = self._blank.to(x_t).expand(len(x_t), -1, -1, -1)
        return torch.cat([x_t, torch.ones_like(x_t[:, :1]), blank], 1)


class TextUNet(UNet):
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
        super().check()

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
        said: Tensor = network(self.seen(x_t), t, encoder_hidden_states=condition, **self.guided(x_t, strength)).sample
        return said
