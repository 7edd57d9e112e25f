"""Denoiser: the one seam between methods and the networks of diffusers. A kind of pipeline is one file of `denoisers/`.

A *condition* is one tensor [n, rows, d], whatever the network reads: the states of all text encoders, and below them its
vectors (pooled text, mask), one or more rows each, filled up with zeros. So methods expand, cut, join and differentiate it like
any other tensor. Token ids of all encoders stand side by side in one row [n, L].
"""

from __future__ import annotations

import copy
import importlib
import pkgutil
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lethe.core.concepts import places
from lethe.core.families.diffusion import Role, Words, own_encoder, read_behind
from lethe.errors import ModelError
from lethe.models.diffusion.noise import Noise

if TYPE_CHECKING:
    from lethe.models.diffusion.pipeline import Pipeline

CROSS: Mapping[Role, tuple[str, ...]] = {
    "cross": ("*attn2*",), "keys": ("*attn2.to_k*", "*attn2.to_v*"),
}


class Denoiser(ABC):
    """How one kind of network is asked.

    networks  classes of diffusers that it asks
    roles     patterns of the parameters with a role; a role that is missing does not exist in this network
    lacks     operations of the family that mean nothing here, and why in `without`
    alone     whether all that the network reads of a prompt are the states of one encoder, pipeline.text_encoder
    distilled whether guidance was taken into the network, and its strength may be an input: it has no use for an empty prompt
    """

    networks: ClassVar[tuple[str, ...]]
    roles: ClassVar[Mapping[Role, tuple[str, ...]]] = CROSS
    lacks: ClassVar[frozenset[str]] = frozenset()
    without: ClassVar[str] = ""
    distilled: bool = False
    alone: ClassVar[bool] = False

    def __init__(self, parts: Pipeline) -> None:
        self.parts, self.config = parts, settings(parts.network)
        self.noise = Noise.of(parts.scheduler)
        self.check()

    @classmethod
    def fits(cls, network: nn.Module) -> bool:
        """Whether it asks this network."""
        return type(network).__name__ in cls.networks

    def check(self) -> None:  # noqa: B027 (most kinds need none)
        """ModelError when a part is missing or of another kind than the network needs."""

    # -- the condition ---------------------------------------------------------------------------------------------

    @property
    def readers(self) -> list[tuple[Any, int]]:
        """Every tokenizer that reads prompts, with the length to which it cuts and pads them; none without text."""
        return []

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token ids of all encoders side by side, each cut or padded to its length.  -> [n, L]"""
        return torch.cat([read(words, prompts, length) for words, length in self.readers], 1)

    @abstractmethod
    def condition(self, tokens: Tensor) -> Tensor:
        """What the network reads for token ids.  [n, L] -> [n, rows, d]"""

    def reading_with(self, encoder: nn.Module) -> Self:
        """The same, with this text encoder in the place of the first."""
        twin = copy.copy(self)
        twin.parts = copy.copy(self.parts)
        twin.parts.text_encoder = encoder
        return twin

    def words(self, network: nn.Module, tokens: Tensor, states: Tensor) -> list[Words]:
        """What the layers of `projections` read of a condition, a sequence of tokens for each encoder that they read."""
        return []

    # -- the network -----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of x."""
        if self.parts.size:
            height = width = self.parts.size // self.parts.factor
        else:
            height, width = self.side
        return self.channels, height, width

    @property
    def side(self) -> tuple[int, int]:
        """Height and width of x that the network was made for."""
        side = self.config.get("sample_size")
        if side is None:
            raise ModelError(f"the configuration of the {type(self.parts.network).__name__} does not say for what size it was "
                             "made (sample_size), so nothing could be drawn; nothing was started. Set model.size, in pixels.")
        height, width = (side, side) if isinstance(side, int) else side
        return int(height), int(width)

    @property
    def channels(self) -> int:
        """Channels of x."""
        return int(self.config["in_channels"])

    @abstractmethod
    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor, strength: float = 1.0) -> Tensor:
        """What the network says by itself (see `Noise.says`).  -> [n, C, H, W]

        strength  of guidance, for a network that is `distilled`
        """

    def projections(self, network: nn.Module) -> dict[str, nn.Linear]:
        """The linear layers that text states enter first, by name: keys and values of cross-attention."""
        return {name: module for name, module in network.named_modules()
                if isinstance(module, nn.Linear) and name.endswith(("attn2.to_k", "attn2.to_v"))}

    def crossings(self, network: nn.Module) -> dict[str, nn.Module]:
        """The layers of cross-attention by name, in which each place of a picture looks at the tokens of its prompt."""
        return {name: module for name, module in network.named_modules()
                if name.rsplit(".", 1)[-1] == "attn2" and hasattr(module, "get_attention_scores")}

    def spelling(self, prompts: Sequence[str], wordings: Sequence[str], ends: bool) -> Tensor:
        """Which of the tokens that `crossings` look at, those of the first tokenizer, spell these words.  -> [n, L] bool

        ends  the end token, too, and padding that repeats it
        """
        words, length = self.readers[0]
        texts = [unicodedata.normalize("NFC", prompt) for prompt in prompts]
        read_as = words(texts, padding="max_length", truncation=True, max_length=length, return_offsets_mapping=True)
        spans = torch.tensor(read_as.offset_mapping)                                   # [n, L, 2], (0, 0) for special tokens
        found: Tensor = (torch.tensor(read_as.input_ids) == words.eos_token_id) & ends
        for row, text in enumerate(texts):
            for start, end in places(text, wordings):
                found[row] |= (spans[row, :, 0] < end) & (spans[row, :, 1] > start)
        return found

    def middle(self, network: nn.Module) -> nn.Module:
        """The module whose output, averaged over positions, is a representation of the picture."""
        return network.get_submodule("mid_block")

    # -- sampling --------------------------------------------------------------------------------------------------

    def set_steps(self, scheduler: Any, steps: int) -> None:
        """Prepare the sampler for this many steps, as the pipeline of diffusers does."""
        scheduler.set_timesteps(steps)


def settings(network: nn.Module) -> Mapping[str, Any]:
    """The configuration that a network carries; empty where there is none."""
    found: Any = getattr(network, "config", {})
    return found if isinstance(found, Mapping) else vars(found)


def denoiser_of(parts: Pipeline) -> Denoiser:
    """The seam to this pipeline's network. ModelError when no file of `denoisers/` knows it."""
    for kind in kinds():
        if kind.fits(parts.network):
            return kind(parts)
    known = sorted({name for kind in kinds() for name in kind.networks})
    raise ModelError(f"the network is a {type(parts.network).__name__}, and nothing here knows how it is asked, so nothing could "
                     f"be predicted. Known networks: {', '.join(known)}.")


@cache
def kinds() -> tuple[type[Denoiser], ...]:
    """Every kind of denoiser: the classes in the files of `denoisers/`."""
    from lethe.models.diffusion import denoisers

    found: list[type[Denoiser]] = []
    for module in pkgutil.iter_modules(denoisers.__path__):
        inside = vars(importlib.import_module(f"{denoisers.__name__}.{module.name}")).values()
        found += [kind for kind in inside if isinstance(kind, type) and issubclass(kind, Denoiser)
                  and kind.__module__.endswith(f".{module.name}") and kind.networks]
    return tuple(found)


# -- conditions of text ------------------------------------------------------------------------------------------------


def read(tokenizer: Any, prompts: Sequence[str], length: int) -> Tensor:
    """Token ids, cut or padded.  -> [n, length]"""
    padded = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    ids: Tensor = padded.input_ids
    return ids


def hidden(encoder: Any, tokens: Tensor, mask: Tensor | None = None) -> Any:
    """What a text encoder of transformers says of token ids, with the states of all its layers."""
    device = next(encoder.parameters()).device
    given = {} if mask is None else {"attention_mask": mask.to(device)}
    return encoder(tokens.to(device), output_hidden_states=True, **given)


def ends(tokenizer: Any, tokens: Tensor) -> Tensor:
    """The place of the first end token; the rest is padding.  [n, L] -> [n]"""
    found: Tensor = (tokens == tokenizer.eos_token_id).int().argmax(1)
    return found


def packed(states: Tensor, *vectors: Tensor) -> Tensor:
    """States [n, L, d] and below them vectors [n, k], each in rows of width d.  -> [n, rows, d]"""
    width = states.shape[2]
    rows = [nn.functional.pad(v, (0, -v.shape[1] % width)).view(len(v), -1, width).to(states) for v in vectors]
    return torch.cat([states, *rows], 1)


def unpacked(condition: Tensor, *sizes: int) -> tuple[Tensor, ...]:
    """The states and the vectors of these sizes that `packed` joined."""
    width, rows = condition.shape[2], condition.shape[1] - sum(-(-size // condition.shape[2]) for size in sizes)
    states, below, found = condition[:, :rows], condition[:, rows:], []
    for size in sizes:
        count = -(-size // width)
        found.append(below[:, :count].flatten(1)[:, :size])
        below = below[:, count:]
    return states, *found


class Conditions:
    """Conditions of token ids, each distinct row made once."""

    def __init__(self, denoiser: Denoiser, limit: int = 4096) -> None:
        self.denoiser, self.limit = denoiser, limit
        self._kept: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, tokens: Tensor, network: nn.Module | None = None) -> Tensor:
        """[n, L] -> [n, rows, d]; of a network with an encoder of its own they are made anew, with gradients, and so are those
        that its guard reads otherwise."""
        own, first = own_encoder(network), self.denoiser.parts.text_encoder
        usual = self._known(tokens) if own is None else self._made(tokens, own)
        if own is None and first is None:
            return usual
        with read_behind(network, own or first) as otherwise:
            if otherwise is None:
                return usual
            made = self._made(tokens, own or first)
        changed = torch.cat(otherwise)[tokens.unique(dim=0, return_inverse=True)[1].to(otherwise[0].device)]
        return torch.where(changed.view(-1, 1, 1).to(usual.device), made, usual)   # all others to the bit

    def _made(self, tokens: Tensor, encoder: nn.Module) -> Tensor:
        unique, place = tokens.unique(dim=0, return_inverse=True)
        return self.denoiser.reading_with(encoder).condition(unique).to(tokens.device)[place]

    def _known(self, tokens: Tensor) -> Tensor:
        rows = [tuple(row) for row in tokens.tolist()]
        new = list(dict.fromkeys(row for row in rows if row not in self._kept))
        if new:
            if len(self._kept) + len(new) > self.limit:
                self._kept.clear()
                new = list(dict.fromkeys(rows))
            for part in _parts(new, 64):
                with torch.no_grad():
                    self._kept.update(zip(part, self.denoiser.condition(torch.tensor(part)), strict=True))
        return torch.stack([self._kept[row] for row in rows]).to(tokens.device)


def _parts(items: list[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
