"""The interface of text-to-image diffusion: a network that predicts the noise in a picture from (x_t, t, prompt)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lethe.core.concepts import Concept, names, rest
from lethe.core.guard import Guard, bare
from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.errors import NeedsUnmet

Role = Literal["cross", "keys"]   # layers in which a picture and its prompt meet; of them the keys and values
OWN = "own_text_encoder"          # in a network: the encoder that its prompts are read with, in the place of the pipeline's first


def own_encoder(model: nn.Module | None) -> nn.Module | None:
    """The text encoder that a network brings, because it was changed, too; None: the pipeline's reads its prompts."""
    found: nn.Module | None = None if model is None else getattr(bare(model), OWN, None)
    return found


def encoder_of(task: DiffusionTask, model: nn.Module | None) -> Any:
    """What reads the model's prompts: its own text encoder, or the pipeline's."""
    return own_encoder(model) or task.pipeline.text_encoder


def read_behind(model: nn.Module | None, encoder: nn.Module) -> AbstractContextManager[list[Tensor] | None]:
    """Inside, a text encoder reads prompts as the guard around the network lets it; None: as it always does."""
    return (model.reading(encoder) if isinstance(model, Guard) else None) or nullcontext()


class AroundNetwork:
    """What every guard around a network has that draws pictures."""

    model: nn.Module

    @property
    def config(self) -> Any:
        """The network's own, as diffusers asks for it."""
        return self.model.config

    def further(self, x: Tensor, t: Tensor, text: Tensor, like: Tensor, beside: Mapping[str, Any]) -> Any:
        """What the network says of further pictures under conditions of `task.text`, in a call like the one at hand.  [m, …]

        like    its text states: pooled text stands in the rows below them, as SDXL reads it
        beside  its other arguments; what they say of a picture's size and of guidance holds here, too
        """
        rows, added = like.shape[1], beside.get("added_cond_kwargs")
        if added:
            pooled = text[:, rows:].flatten(1)[:, : added["text_embeds"].shape[1]]
            beside = {**beside, "added_cond_kwargs": {**added, "text_embeds": pooled,
                                                      "time_ids": added["time_ids"][:1].expand(len(x), -1)}}
        if "timestep_cond" in beside:
            beside = {**beside, "timestep_cond": beside["timestep_cond"][:1].expand(len(x), -1)}
        return self.model(x, t, encoder_hidden_states=text[:, :rows], **beside)


@runtime_checkable
class Edits(Protocol):
    """A guard that also takes what a mask covers out of pictures that are given."""

    def edit(self, task: DiffusionTask, pictures: Tensor, masks: Tensor, seed: int = 0) -> Tensor:
        """The pictures in [−1, 1] without what the masks cover; all else is as it was.  [n, 3, H', W'], [n, 1, …] -> [n, 3, …]

        seed  of the noise from which it is drawn anew; what becomes of a picture depends on it and on the picture's place alone
        """


class Words(NamedTuple):
    """What the first layers that text enters read of prompts, from one text encoder.

    states  [n, L, d]      end  place of the first end token, behind the last word; what follows is padding  [n]
    """

    states: Tensor
    end: Tensor


class Attended(NamedTuple):
    """What a network says, and how it looked at its prompt meanwhile.

    said  by `predict`  [n, C, H, W]      maps  by layer of cross-attention: softmax over the L tokens  [n, heads, h, w, L]
    """

    said: Tensor
    maps: dict[str, Tensor]


class PictureJudge(Protocol):
    """Reads what pictures show, one answer per attribute: a closed-set classifier, or the original itself."""

    @property
    def attributes(self) -> Mapping[str, Sequence[str]]:
        """Attribute -> its values."""

    @property
    def accuracy(self) -> Mapping[str, float] | None:
        """Share of held-out real pictures read correctly, by attribute."""

    def read(self, pixels: Tensor, prompts: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Position of the seen value by attribute (one past the last: none of them).  [n, 3, H', W'] -> {name: [n]}

        prompts  what the pictures were drawn for, where it is known; a judge may ask about these words
        """

    def features(self, pixels: Tensor) -> Tensor:
        """What stands for pictures, without asking what they show.  [n, 3, H', W'] -> [n, d]"""

    def attribute_of(self, concept: str) -> str | None:
        """The attribute that has `concept` among its values, or None."""

    def shows(self, seen: Mapping[str, Tensor], concept: str) -> Tensor:
        """Which pictures show `concept`.  {name: [n]} -> [n] bool"""

    def expected(self, prompt: str) -> dict[str, int]:
        """What a prompt asks for: attribute -> position of the value that it names; other attributes are absent."""


class DiffusionTask(Task):
    """Columns: `image` [n, C, H, W] (what the network sees) and `tokens` [n, L] of the caption; `draw` adds `t` and `noise`.

    nll         squared error at the drawn t and noise  -> [n]    outputs   what the network says  -> [n, C, H, W]
    divergence  squared distance of outputs  -> [n]      features  mid-block, mean over positions  -> [n, d]
    relabel     the anchor prompt beside the caption              observe   at fixed (t, noise); also nll_t [n, looks]
    """

    family = "diffusion"
    score_name = "denoising quality"
    provides: ClassVar[frozenset[str]] = frozenset({
        "nll", "batch_loss", "outputs", "divergence", "features", "relabel", "observe", "build", "weights",
        "concepts", "rest", "prompts", "tokens", "text", "words", "layers", "levels", "shape", "encode", "decode",
        "noised", "target", "predict", "predict_noise", "predict_picture", "guided_noise", "denoise", "draw_from", "sample",
        "attention_projections", "pipeline", "alphas_cumprod", "judge", "reader", "steps", "guidance", "attention_maps",
        "named_tokens",
    })
    concepts: tuple[Concept, ...]       # what is to be forgotten, with synonyms and replacements
    prompts: dict[str, list[str]]       # "forget", "keep" (methods may use them to preserve), "outside" (audits only)
    alphas_cumprod: Tensor              # ᾱ_t, share of signal; x_t itself by `levels`, which also knows flows  [timesteps]
    judge: PictureJudge | None          # None: there is no concept to look for
    steps: int                          # of a trajectory
    guidance: float                     # w of classifier-free guidance; 1 or less: none

    def rest(self, prompt: str) -> str:
        """What a prompt says without the concepts: with their replacements, or with their words taken out."""
        return rest(prompt, self.concepts)

    def names(self, text: str) -> bool:
        """Whether a text names any of the concepts."""
        return names(text, self.wordings)

    def named(self, text: str) -> Concept | None:
        """The first concept that a text names."""
        return next((one for one in self.concepts if names(text, one.wordings)), None)

    @property
    def wordings(self) -> tuple[str, ...]:
        """All wordings of all concepts."""
        return tuple(word for one in self.concepts for word in one.wordings)

    def known(self) -> dict[str, str]:
        """Each concept's name -> the wording under which the judge knows it; one that it does not know is absent."""
        judge = self.reader
        wordings = {one.concept: [word for word in one.wordings if judge.attribute_of(word) is not None] for one in self.concepts}
        return {name: found[0] for name, found in wordings.items() if found}

    def shown(self, seen: Mapping[str, Tensor]) -> Tensor:
        """Which pictures show any of the concepts, of what the judge saw.  {name: [n]} -> [n] bool"""
        return torch.stack([self.reader.shows(seen, word) for word in self.known().values()]).any(0)

    def attributes(self) -> list[str]:
        """The judge's attributes whose values the concepts are."""
        found = [self.reader.attribute_of(word) for word in self.known().values()]
        return list(dict.fromkeys(name for name in found if name is not None))

    @property
    def lists(self) -> dict[str, list[str]]:
        """Further lists of prompts, which audits alone ask: what stands beside forget, keep and outside."""
        return {part: prompts for part, prompts in self.prompts.items() if part not in ("forget", "keep", "outside") and prompts}

    @property
    @abstractmethod
    def pipeline(self) -> Any:
        """Text encoder, tokenizer, scheduler, VAE and the original's network: for methods that declare `original`, too."""

    @property
    def reader(self) -> PictureJudge:
        """The judge. NeedsUnmet where the task has none."""
        if self.judge is None:
            raise NeedsUnmet("the task has no judge, so nothing can read its pictures. Pass judge=.")
        return self.judge

    def captions(self, split: Split) -> list[str]:
        """The captions of pictures; from their tokens, by the first tokenizer, where they do not stand beside them."""
        if "caption" in split.meta:
            return [str(text) for text in split.meta["caption"]]
        words = self.pipeline.tokenizer
        ids = split.columns["tokens"][:, : words.model_max_length]
        return [str(words.decode(row, skip_special_tokens=True)).strip() for row in ids]

    @abstractmethod
    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, cut or padded to the tokenizer's length.  -> [n, L]"""

    @abstractmethod
    def text(self, tokens: Tensor, model: nn.Module | None = None) -> Tensor:
        """The condition: all that the network reads for token ids, one row a token and one or more below for each vector that it
        reads beside them (pooled text, mask, class).  [n, L] -> [n, rows, d]

        model  whose prompts they are, None: the original; one that brings a text encoder (`own_encoder`) reads them with it, with
               gradients
        """

    @abstractmethod
    def words(self, tokens: Tensor) -> list[Words]:
        """What the layers of `attention_projections` read, once for each text encoder that they read; none without text."""

    @abstractmethod
    def layers(self, role: Role) -> tuple[str, ...]:
        """Patterns of the parameters with this role, for `where`. RequestError when the network has none."""

    @abstractmethod
    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """s_t and n_t of x_t = s_t · x + n_t · ε, shaped for `like`.  [n] -> [n, 1, …] ×2"""

    def mixed(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = s_t · x + n_t · ε.  [n, …], [n, …], [n] -> [n, …]"""
        signal, size = self.levels(t, x)
        return signal * x + size * noise

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the network sees."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels in [−1, 1] to what the network sees: scaled latents, or the pixels.  [n, 3, H', W'] -> [n, C, H, W]"""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """What the network sees to pixels, clamped to [−1, 1].  [n, C, H, W] -> [n, 3, H', W']"""

    @abstractmethod
    def noised(self, batch: Batch) -> Tensor:
        """x_t = s_t · x + n_t · ε at the batch's t and noise.  -> [n, C, H, W]"""

    @abstractmethod
    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What a model should say of pictures x under noise.  [n, …], [n, …], [n] -> [n, …]"""

    @abstractmethod
    def predict(self, model: nn.Module, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """What the model says by itself at (x_t, t, c), as it was trained to: ε, v, x or a flow. Methods that compare models, or
        prompts, at one point compare this: for ε the formulas of the papers to the letter, for the others the same difference but
        for the factor between them, which for ε would be 0 where a flow begins.  -> [n, C, H, W]"""

    @abstractmethod
    def predict_noise(self, model: nn.Module, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """ε_θ(x_t, t, c), whatever the model says by itself: for likelihoods.  -> [n, C, H, W]"""

    @abstractmethod
    def predict_picture(self, model: nn.Module, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """x̂_θ(x_t, t, c), whatever the model says by itself.  -> [n, C, H, W]"""

    @abstractmethod
    def guided_noise(self, model: nn.Module, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """`predict_noise` under the task's guidance, as pictures are drawn; t is one for all.  [], [n, …] -> [n, C, H, W]"""

    @abstractmethod
    def denoise(
        self, model: nn.Module, text: Tensor, seed: int, steps: int, guidance: float, first: int = 0
    ) -> Iterator[tuple[int | float, Tensor]]:
        """The points (t, x_t) of a trajectory of the pipeline's own sampler from pure noise, and last (−1, x_0); text
        [n, rows, d]. A sampler may stop between two timesteps of the training.

        Picture i starts from noise that depends on (seed, first + i) only.
        """

    @abstractmethod
    def draw_from(
        self, model: nn.Module, text: Tensor, seed: int = 0, steps: int | None = None, guidance: float | None = None
    ) -> Tensor:
        """What the model draws for conditions, as the network sees it.  [n, rows, d] -> [n, C, H, W]"""

    @abstractmethod
    def sample(
        self, model: nn.Module, prompts: Sequence[str], seed: int = 0, steps: int | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Pictures for prompts; equal seeds give equal starting noise for every model.  -> [n, 3, H', W'] in [−1, 1]"""

    @abstractmethod
    def attention_projections(self, model: nn.Module) -> dict[str, nn.Linear]:
        """The linear layers that text enters first, by name: keys and values of cross-attention, or what embeds the text."""

    @abstractmethod
    def attention_maps(self, model: nn.Module, x_t: Tensor, t: Tensor, text: Tensor) -> Attended:
        """`predict`, and the maps of all layers of cross-attention, with gradients. RequestError where there are none."""

    @abstractmethod
    def named_tokens(self, prompts: Sequence[str], ends: bool = False) -> Tensor:
        """Which of the tokens that cross-attention looks at spell the concepts; with `ends` the end token and padding that
        repeats it, too.  -> [n, L] bool"""
