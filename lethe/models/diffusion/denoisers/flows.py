"""SD3 and FLUX: transformers in which picture and text tokens attend to each other jointly, trained to say the flow ε − x.

No layer reads text alone for keys and values: text states enter by the context embedder, which closed forms edit, and what moves
as "cross" are the layers of the text stream. The pooled text beside them also carries a concept's words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.families.diffusion import Role, Words
from lethe.errors import ModelError
from lethe.models.diffusion.denoiser import Denoiser, ends, hidden, packed, unpacked

STREAM = ("*add_q_proj*", "*add_k_proj*", "*add_v_proj*", "*to_add_out*", "*context_embedder*")


class Joint(Denoiser):
    """What both have in common."""

    networks: ClassVar[tuple[str, ...]] = ()
    roles: ClassVar[Mapping[Role, tuple[str, ...]]] = {"cross": STREAM, "keys": ("*add_k_proj*", "*add_v_proj*")}
    lacks = frozenset({"attention_maps", "named_tokens"})
    without = "a network in which picture and text attend to each other jointly (it has no cross-attention with maps to read)"
    texts: ClassVar[tuple[tuple[str, int], ...]]   # suffix of each encoder's folders, and the length it reads; 0: its tokenizer's

    @property
    def readers(self) -> list[tuple[Any, int]]:
        return [(self._tokenizer(i), self._length(i)) for i in range(len(self.texts)) if self._there(i)]

    def projections(self, network: nn.Module) -> dict[str, nn.Linear]:
        return {name: module for name, module in network.named_modules()
                if isinstance(module, nn.Linear) and name.endswith("context_embedder")}

    def middle(self, network: nn.Module) -> nn.Module:
        blocks: Any = network.get_submodule("transformer_blocks")
        found: nn.Module = blocks[len(blocks) // 2]
        return found

    def set_steps(self, scheduler: Any, steps: int) -> None:
        if not scheduler.config.get("use_dynamic_shifting"):
            scheduler.set_timesteps(steps, **self.grid(steps))
            return
        config, (_, height, width) = scheduler.config, self.shape
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        base, top = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        patches = (height // 2) * (width // 2)
        scheduler.set_timesteps(steps, mu=base + (top - base) * (patches - low) / (high - low), **self.grid(steps))

    def grid(self, steps: int) -> dict[str, Any]:
        """Noise levels that the pipeline passes to its sampler, before they are shifted."""
        return {}

    def _parts(self, tokens: Tensor) -> list[Tensor]:
        """The tokens of each encoder; of one that is not there, none."""
        return list(tokens.split([self._length(i) if self._there(i) else 0 for i in range(len(self.texts))], 1))

    def _there(self, i: int) -> bool:
        return self._named("text_encoder", i) is not None

    def _encoder(self, i: int) -> Any:
        return self._named("text_encoder", i)

    def _tokenizer(self, i: int) -> Any:
        return self._named("tokenizer", i)

    def _length(self, i: int) -> int:
        return self.texts[i][1] or int(self._tokenizer(i).model_max_length)

    def _named(self, part: str, i: int) -> Any:
        name = part + self.texts[i][0]
        return self.parts.others.get(name) if self.texts[i][0] else getattr(self.parts, name)


class SD3(Joint):
    """Two CLIP encoders side by side, and T5 below them, which may be missing."""

    networks = ("SD3Transformer2DModel",)
    texts = (("", 0), ("_2", 0), ("_3", 256))

    def check(self) -> None:
        if not (self._there(0) and self._there(1)):
            raise ModelError("an SD3 pipeline reads text_encoder and text_encoder_2, and one of them is missing, so no prompt "
                             "could be encoded. Add its folder.")

    def condition(self, tokens: Tensor) -> Tensor:
        first, second, third = self._parts(tokens)
        one, two = hidden(self._encoder(0), first), hidden(self._encoder(1), second)
        clip = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1)
        width = int(self.config["joint_attention_dim"])
        clip = nn.functional.pad(clip, (0, width - clip.shape[-1]))
        below = hidden(self._encoder(2), third)[0] if self._there(2) else clip.new_zeros(len(clip), self.texts[2][1], width)
        return packed(torch.cat([clip, below], 1), torch.cat([one.text_embeds, two.text_embeds], -1))

    def words(self, network: nn.Module, tokens: Tensor, states: Tensor) -> list[Words]:
        first, _, third = self._parts(tokens)
        states = unpacked(states, self.config["pooled_projection_dim"])[0]
        found = [Words(states[:, : first.shape[1]], ends(self._tokenizer(0), first))]
        return found + ([Words(states[:, first.shape[1]:], ends(self._tokenizer(2), third))] if self._there(2) else [])

    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor, strength: float = 1.0) -> Tensor:
        states, pooled = unpacked(condition, self.config["pooled_projection_dim"])
        said: Tensor = network(hidden_states=x_t, timestep=t.float(), encoder_hidden_states=states,
                               pooled_projections=pooled).sample
        return said


class Flux(Joint):
    """T5, and CLIP's pooled text. Latents are cut into patches of 2 × 2."""

    networks = ("FluxTransformer2DModel",)
    texts = (("", 0), ("_2", 512))

    def check(self) -> None:
        self.distilled = True     # without an input for its strength, too, as in schnell
        if self.config.get("out_channels") not in (None, self.config["in_channels"]):
            raise ModelError(f"the transformer takes {self.config['in_channels']} channels and returns "
                             f"{self.config['out_channels']}: a relative of FLUX (Fill, Depth, Canny), which draws from pictures "
                             "and not from text. Use the base pipeline.")
        if not (self._there(0) and self._there(1)):
            raise ModelError("a FLUX pipeline reads text_encoder and text_encoder_2, and one of them is missing, so no prompt "
                             "could be encoded. Add its folder.")

    @property
    def channels(self) -> int:
        return int(self.config["in_channels"]) // 4

    @property
    def side(self) -> tuple[int, int]:
        return 128, 128          # its configuration does not say it; the pipeline of diffusers draws 1024 × 1024

    def condition(self, tokens: Tensor) -> Tensor:
        first, second = self._parts(tokens)
        return packed(hidden(self._encoder(1), second)[0], hidden(self._encoder(0), first).pooler_output)

    def words(self, network: nn.Module, tokens: Tensor, states: Tensor) -> list[Words]:
        states = unpacked(states, self.config["pooled_projection_dim"])[0]
        return [Words(states, ends(self._tokenizer(1), self._parts(tokens)[1]))]

    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor, strength: float = 1.0) -> Tensor:
        states, pooled = unpacked(condition, self.config["pooled_projection_dim"])
        n, c, height, width = x_t.shape
        patches = x_t.view(n, c, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, -1, 4 * c)
        places = torch.zeros(height // 2, width // 2, 3)
        places[..., 1] += torch.arange(height // 2)[:, None]
        places[..., 2] += torch.arange(width // 2)[None, :]
        said: Tensor = network(
            hidden_states=patches, timestep=t.float() / 1000, encoder_hidden_states=states, pooled_projections=pooled,
            guidance=x_t.new_full((n,), strength) if self.config.get("guidance_embeds") else None,
            txt_ids=x_t.new_zeros(states.shape[1], 3), img_ids=places.flatten(0, 1).to(x_t),
        ).sample
        return said.view(n, height // 2, width // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x_t.shape)

    def grid(self, steps: int) -> dict[str, Any]:
        return {"sigmas": np.linspace(1.0, 1 / steps, steps)}
