"""PixArt-α and PixArt-Σ: a transformer with cross-attention to the projected states of a T5 encoder, padding masked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.families.diffusion import Words
from lethe.core.guard import bare
from lethe.errors import ModelError
from lethe.models.diffusion.denoiser import Denoiser, ends, hidden, packed, unpacked


class PixArt(Denoiser):
    """ε(x_t, t, states, mask); the second half of its channels is a variance, which nothing here uses."""

    networks = ("PixArtTransformer2DModel",)

    def check(self) -> None:
        if self.parts.text_encoder is None or self.parts.tokenizer is None:
            raise ModelError("a PixArt pipeline reads text, but there is no text_encoder or no tokenizer, so no prompt could be "
                             "encoded. Add the two folders.")
        self.length = 300 if "Sigma" in self.parts.kind else 120    # as the pipelines of diffusers cut

    @property
    def readers(self) -> list[tuple[Any, int]]:
        return [(self.parts.tokenizer, self.length)]

    def condition(self, tokens: Tensor) -> Tensor:
        mask = (tokens != self.parts.tokenizer.pad_token_id).long()
        return packed(hidden(self.parts.text_encoder, tokens, mask)[0], mask)

    def words(self, network: nn.Module, tokens: Tensor, states: Tensor) -> list[Words]:
        project: Any = network.get_submodule("caption_projection")
        read_by = project(unpacked(states, self.length)[0].to(next(project.parameters())))
        return [Words(read_by, ends(self.parts.tokenizer, tokens))]

    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor, strength: float = 1.0) -> Tensor:
        states, mask = unpacked(condition, self.length)
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if getattr(bare(network), "use_additional_conditions", False):
            height, width = (side * self.parts.factor for side in x_t.shape[2:])
            added = {"resolution": torch.tensor([[height, width]]).to(x_t).expand(len(x_t), -1),
                     "aspect_ratio": torch.tensor([[height / width]]).to(x_t).expand(len(x_t), -1)}
        said: Tensor = network(x_t, encoder_hidden_states=states, encoder_attention_mask=mask, timestep=t,
                               added_cond_kwargs=added).sample
        return said[:, : self.channels]

    def middle(self, network: nn.Module) -> nn.Module:
        blocks: Any = network.get_submodule("transformer_blocks")
        found: nn.Module = blocks[len(blocks) // 2]
        return found
