"""Text-to-image diffusion: a network that predicts noise from (x_t, t, prompt). Only the network moves.

Text encoders, scheduler and VAE are frozen parts of the task. How the network is asked is its denoiser's business
(`lethe.models.diffusion.denoisers`). It works on pixels in [−1, 1], or on latents that were encoded once. Saved as a diffusers
folder (see `lethe.models.diffusion.pipeline`): it loads without Lethe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.concepts import Concept, concepts_of, told_apart, without
from lethe.core.families.diffusion import Attended, DiffusionTask, PictureJudge, Role, Words, own_encoder
from lethe.core.guard import Guard, bare
from lethe.core.modules import has_convolutions, hooked
from lethe.core.seeds import generator
from lethe.core.split import Batch, Split, require_columns
from lethe.core.task import Recipe
from lethe.errors import DataError, OutputShape, RequestError, WrongColumn
from lethe.maths import losses
from lethe.models.diffusion.denoiser import denoiser_of
from lethe.models.diffusion.files import save_lora, save_pipeline, told_of_lora, widths
from lethe.models.diffusion.maps import recorded
from lethe.models.diffusion.one_file import OneFile
from lethe.models.diffusion.original_judge import OriginalJudge
from lethe.models.diffusion.pipeline import Pipeline
from lethe.models.diffusion.reading import shortened
from lethe.models.diffusion.sampling import Sampler
from lethe.models.diffusion.word_judge import JudgeParts
from lethe.models.gallery import png

DECODED = 2**22      # numbers in the pictures that are decoded at once: 5 of 512 × 512                          [ours]
LOOKS = 4            # fixed (t, noise) pairs at which `observe` examines every example
DROPPED = 0.1        # share of captions that the recipe's augmentations empty                      [Ho & Salimans 2022]
CUT = 0.3            # share of captions that "drop_words" cuts by one token: of two words each goes from 15 %     [ours]


class Diffusion(DiffusionTask):
    """Columns: `image` [n, C, H, W] (what the network sees) and `tokens` [n, L] (token ids of the caption).

    `draw` adds the timestep `t` [n] and the noise `noise` [n, C, H, W]; a split that brings `t` itself is left alone.

    concept   the words to be forgotten, e.g. "disk"; or a `Concept` with synonyms and a replacement; or several
    prompts   "forget": prompts with the concept; "keep": prompts that methods may use to preserve; "outside": prompts
              that no method sees, for audits only
    anchor    the prompt whose predictions `relabel` teaches for a caption; default the empty prompt. Where a concept has a
              replacement, those for the caption with the replacement
    judge     reads what pictures show: a classifier, a model that compares pictures with texts (`load_clip`), or one that
              answers questions (`load_vlm`); None: the original itself, asked how well the concept's words explain them
    """

    distinct = False

    def __init__(
        self,
        pipeline: Pipeline,
        splits: Mapping[str, Split],
        recipe: Recipe | None = None,
        build: Callable[[int], nn.Module] | None = None,
        name: str = "diffusion",
        facts: dict[str, Any] | None = None,
        concept: str | Concept | Sequence[str | Concept] = "",
        prompts: Mapping[str, Sequence[str]] | None = None,
        anchor: str = "",
        judge: PictureJudge | JudgeParts | None = None,
        steps: int = 20,
        guidance: float = 1.0,
    ) -> None:
        self._parts, self.anchor = dataclasses.replace(pipeline), anchor
        self.concepts = concepts_of(concept) if concept else ()
        self.prompts = {key: list(values) for key, values in (prompts or {}).items()}
        self.steps, self.guidance = steps, guidance
        self._denoiser = denoiser_of(self._parts)
        self._noise = self._denoiser.noise
        self.alphas_cumprod: Tensor = self._noise.alphas_cumprod
        self._sampler = Sampler(self._denoiser)
        self._drawn: dict[str, str] = {}      # the original's pictures for `samples`, by prompt
        self.judge = judge.judge(self) if isinstance(judge, JudgeParts) else judge
        if judge is None and self.concepts and self._reads_rests():
            self.judge = OriginalJudge(self)
        network: Any = pipeline.network
        super().__init__(network, splits, recipe, build or (lambda seed: type(network).from_config(network.config)), name, facts)
        self._parts.network = self.model

    def narrow(self) -> None:
        texts = [self.captions(getattr(self, part)) if self.concepts and self.has(part) else [] for part in ("forget", "retain")]
        self.concepts, self.prompts = told_apart(self.concepts, self.prompts, *texts)

    # -- operations ------------------------------------------------------------------------------------------------

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean squared error of the model's prediction at the batch's t and noise; of a relabelled batch, its distance to what
        the same model says for the anchor, which gets no gradient.  -> [n]"""
        return self._error(model, batch, self.outputs(model, batch))

    def _error(self, model: nn.Module, batch: Batch, said: Tensor) -> Tensor:
        if "taught" not in batch.columns:
            return losses.squared_distance(said, self.target(batch.image, batch.noise, batch.t))
        with torch.no_grad():
            other = self.predict(model, self.noised(batch), batch.t, self.text(batch.taught, model))
        return losses.squared_distance(said, other)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the model says at the batch's t and noise.  -> [n, C, H, W]"""
        return self.predict(model, self.noised(batch), batch.t, self.text(batch.tokens, model))

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Mean squared difference of predictions: the KL of the denoising Gaussians up to a factor.  -> [n]"""
        return losses.squared_distance(p, q)

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean of the output of the network's middle over positions.  -> [n, d]"""
        return self._said_and_middle(model, batch)[1]

    def _said_and_middle(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the model says, and what `features` reads: of the same pass, or, where a guard may ask more, of another."""
        if isinstance(model, Guard):
            return self.outputs(model, batch), self.features(bare(model), batch)
        caught: list[Tensor] = []
        with hooked(self._denoiser.middle(model).register_forward_hook(lambda _, args, out: caught.append(out))):
            said = self.outputs(model, batch)
        out = caught[-1][-1] if isinstance(caught[-1], tuple) else caught[-1]   # joint blocks return (text, picture)
        return said, out.flatten(2).mean(2) if out.dim() == 4 else out.mean(1)

    def relabel(self, batch: Batch, rng: torch.Generator, include_true: bool = False) -> Batch:
        """The same pictures and captions, and beside them a prompt: `nll` teaches what the model says for it. The anchor, or the
        caption with the replacement where a concept has one."""
        anchor = self.tokens([self.anchor])
        if not self._replaces:
            return batch.replace(taught=anchor.to(batch.tokens.device).expand_as(batch.tokens))
        rows = [self._replaced.get(tuple(row), anchor[0]) for row in batch.tokens.tolist()]
        return batch.replace(taught=torch.stack(rows).to(batch.tokens.device))

    @property
    def _replaces(self) -> bool:
        return any(one.replacement for one in self.concepts)

    @cached_property
    def _replaced(self) -> dict[tuple[int, ...], Tensor]:
        """Token ids of every prompt of the concepts -> those with the replacement."""
        prompts = [text for text in dict.fromkeys([*self.prompts.get("forget", []), *self._captions]) if self.names(text)]
        rows = self.tokens(prompts).tolist() if prompts else []
        return {tuple(row): self.tokens([self.rest(text)])[0] for row, text in zip(rows, prompts, strict=True)}

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """nll and score = max(0, 1 − nll / mean square of the target), means over `LOOKS` fixed (t, noise) pairs that
        are the same for every example; nll_t [n, LOOKS]; signal = −nll; features at the middle look."""
        rng = generator(0, "observe")
        errors, sizes, features = [], [], None
        for look in range(LOOKS):
            t = torch.full((len(batch),), self._noise.at((look + 0.5) / LOOKS), device=batch.image.device)
            noise = torch.randn(batch.image.shape[1:], generator=rng).to(batch.image).expand_as(batch.image)
            placed = batch.replace(t=t, noise=noise)
            if look == LOOKS // 2:
                said, features = self._said_and_middle(model, placed)
            else:
                said = self.outputs(model, placed)
            errors.append(self._error(model, placed, said))
            sizes.append(self.target(placed.image, noise, t).square().flatten(1).mean(1))
        nll, size = torch.stack(errors, 1), torch.stack(sizes, 1)
        assert features is not None
        return {
            "nll": nll.mean(1),
            "score": (1 - nll.mean(1) / size.mean(1)).clamp(min=0),
            "signal": -nll.mean(1),
            "nll_t": nll,
            "features": features.float(),
        }

    @property
    def augmentations(self) -> tuple[str, ...]:
        return ("drop_prompt", "drop_words")

    def draw(self, batch: Batch, rng: torch.Generator, train: bool) -> Batch:
        if "t" in batch.columns:   # a point on a trajectory: nothing is random about it
            return batch
        t = self._noise.times[torch.randint(0, len(self._noise.times), (len(batch),), generator=rng)]
        noise = torch.randn(batch.image.shape, generator=rng)
        tokens = batch.tokens
        if train and self.augmentation != "none":
            empty = torch.rand(len(batch), generator=rng) < DROPPED
            if self.augmentation == "drop_words":
                tokens = shortened(tokens, self._parts.tokenizer.eos_token_id, CUT, rng)
            tokens = torch.where(empty.view(-1, 1), self.tokens([""]), tokens)
        return batch.replace(drawn=True, t=t.to(batch.image.device), noise=noise.to(batch.image.device), tokens=tokens)

    def save_model(self, model: nn.Module, folder: Path) -> None:
        save_pipeline(dataclasses.replace(self._parts, network=model.cpu().eval()), folder)

    def save_adapter(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], folder: Path) -> None:
        save_lora(self._parts, tensors, settings, folder)

    @property
    def told_of_adapters(self) -> str:
        return told_of_lora(self._parts)

    def deliverable(self, model: nn.Module) -> nn.Module:
        """The model rounded to the precision of the files that it goes out in, in place."""
        known = {} if self._parts.source is None else widths(self._parts.source, model)
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if name in known and known[name] != value.dtype:
                    value.copy_(value.to(known[name]))
        return model

    def samples(self, model: nn.Module, limit: int = 6) -> list[dict[str, Any]]:
        """A row of four seeded pictures per prompt, from the original and from `model` with the same seeds: prompts with the
        concept, neighbours, out of scope, and none."""
        groups = {"erased": self.prompts.get("forget", [])[: limit // 2], "neighbour": self.prompts.get("keep", [])[: limit // 3],
                  "out of scope": self.prompts.get("outside", [])[: limit // 3], "no prompt": [""]}
        shown = []
        for group, prompt in [(group, prompt) for group, prompts in groups.items() for prompt in prompts]:
            if prompt not in self._drawn:
                self._drawn[prompt] = png(self.sample(self.model, [prompt] * 4, seed=0))
            after = png(self.sample(model, [prompt] * 4, seed=0))
            shown.append({"kind": "image", "split": group, "caption": prompt or "(no prompt)", "before": self._drawn[prompt],
                          "after": after})
        return shown

    def _reads_rests(self) -> bool:
        """Whether the original can be asked for the concepts' prompts without their words: any text; of classes, no class."""
        if self._parts.tokenizer is not None:
            return True
        try:
            return "tokens" not in self._denoiser.lacks and len(self.tokens(
                ["", *(without(text, self.wordings) for one in self.concepts for text in one.asked)])) > 0
        except RequestError:
            return False

    def has(self, what: str) -> bool:
        """Besides splits, original and recipe: "prompts", further "prompt lists", "convolutions", a "judge" that can see the
        concept, for audits, and "encoder": that all text comes from one encoder of CLIP; "deliverable encoder": and that the
        pipeline goes out with it."""
        if what in ("encoder", "deliverable encoder"):
            known = self._denoiser.alone and getattr(self._parts.tokenizer, "bos_token_id", None) is not None
            return known and not (isinstance(self._parts.source, OneFile) and what.startswith("deliverable"))
        if what == "judge":
            return self.judge is not None and bool(self.concepts) and len(self.known()) == len(self.concepts)
        if what in ("convolutions", "prompt lists"):
            return self._convolutions if what == "convolutions" else bool(self.lists)
        return bool(self.prompts.get("forget")) if what == "prompts" else super().has(what)

    @property
    def lends(self) -> bool:
        return self._parts.source is not None

    @property
    def serves(self) -> frozenset[str]:
        return super().serves - self._denoiser.lacks

    def refuses(self, uses: Set[str]) -> str:
        if not self._replaces or uses & {"rest", "relabel"}:
            return ""
        given = next(one for one in self.concepts if one.replacement)
        return (f"has no place for the replacement {given.replacement!r} of {given.concept!r}: it does not say what is to "
                "be drawn instead. Leave the replacement out, or choose a method that writes it into the prompt: uce, "
                "mim_mu, salun.")

    def unserved(self, operations: Iterable[str]) -> str:
        return self._denoiser.without or super().unserved(operations)

    @property
    def pipeline(self) -> Pipeline:
        own = own_encoder(self.model)   # of an original that an earlier run made
        return dataclasses.replace(self._parts, network=self.model, text_encoder=own or self._parts.text_encoder)

    # -- what only diffusion models have -----------------------------------------------------------------------------

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token ids of all text encoders side by side, each cut or padded to its length.  -> [n, L]"""
        return self._denoiser.tokens(prompts)

    def text(self, tokens: Tensor, model: nn.Module | None = None) -> Tensor:
        """The condition: all that the network reads for token ids, each distinct row encoded once; of a model (None: the
        original) with a text encoder of its own by that, with gradients.  [n, L] -> [n, rows, d]"""
        return self._sampler.text(tokens, self._base if model is None else model)

    def words(self, tokens: Tensor) -> list[Words]:
        """What the layers of `attention_projections` read, once for each text encoder that they read."""
        with torch.no_grad():
            return self._denoiser.words(self.model, tokens, self.text(tokens))

    def layers(self, role: Role) -> tuple[str, ...]:
        """Patterns of the parameters with this role, for `where`. RequestError when the network has none."""
        if role not in self._denoiser.roles:
            raise RequestError(f"a {type(self.model).__name__} has no layers of the role {role!r}, so nothing could be moved "
                               "there; nothing was started. Choose another variant of the method, or where=all.")
        return self._denoiser.roles[role]

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """s_t and n_t of x_t = s_t · x + n_t · ε, shaped for `like`.  [n] -> [n, 1, …] ×2"""
        return self._noise.levels(t, like)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of x."""
        return self._denoiser.shape

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels in [−1, 1] to what the network sees: scaled latents, or the pixels themselves."""
        return self._parts.encode(pixels)

    def decode(self, x: Tensor) -> Tensor:
        """What the network sees to pixels, clamped to [−1, 1]."""
        return self._parts.decode(x)

    def noised(self, batch: Batch) -> Tensor:
        """x_t = s_t · x + n_t · ε."""
        if "t" not in batch.columns:
            raise WrongColumn("the batch has no timestep, so it cannot be noised. Pass it through task.draw first.")
        if "noise" not in batch.columns:   # the image already is x_t
            return batch.image
        signal, noise = self.levels(batch.t, batch.image)
        return signal * batch.image + noise * batch.noise

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What a model should say of pictures x under noise.  [n, …], [n, …], [n] -> [n, …]"""
        return self._noise.target(x, noise, t)

    def predict(self, model: nn.Module, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """What the model says by itself: ε, v, x or a flow.  -> [n, C, H, W]"""
        return self._denoiser.predict(model, x_t, t, text)

    def predict_noise(self, model: nn.Module, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """ε_θ(x_t, t, c), whatever the model says by itself.  -> [n, C, H, W]"""
        return self._noise.as_noise(self.predict(model, x_t, t, text), x_t, t)

    def predict_picture(self, model: nn.Module, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """x̂_θ(x_t, t, c), whatever the model says by itself.  -> [n, C, H, W]"""
        return self._noise.as_picture(self.predict(model, x_t, t, text), x_t, t)

    def guided_noise(self, model: nn.Module, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """`predict_noise` under the task's guidance.  -> [n, C, H, W]"""
        return self._noise.as_noise(self._sampler.guided(model, text, self.guidance)(x_t, t), x_t, t.expand(len(x_t)))

    def denoise(
        self, model: nn.Module, text: Tensor, seed: int, steps: int, guidance: float, first: int = 0
    ) -> Iterator[tuple[int | float, Tensor]]:
        """The points (t, x_t) of a trajectory of the pipeline's own sampler from pure noise, and last (−1, x_0)."""
        return self._sampler.denoise(model, text, seed, steps, guidance, first)

    def draw_from(
        self, model: nn.Module, text: Tensor, seed: int = 0, steps: int | None = None, guidance: float | None = None
    ) -> Tensor:
        """What the model draws for conditions, as the network sees it.  [n, rows, d] -> [n, C, H, W]"""
        return self._sampler.draw(model, text, seed, steps or self.steps, self.guidance if guidance is None else guidance)

    def sample(
        self, model: nn.Module, prompts: Sequence[str], seed: int = 0, steps: int | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Pictures for prompts; equal seeds give equal starting noise for every model.  -> [n, 3, H, W] in [−1, 1]"""
        read = model.admitted(prompts) if isinstance(model, Guard) else prompts
        drawn = self.draw_from(model, self.text(self.tokens(read), model), seed, steps, guidance)
        together = max(1, DECODED // (3 * self._parts.factor**2 * drawn[0, 0].numel()))
        return torch.cat([self.decode(some) for some in torch.split(drawn, together)])

    def attention_projections(self, model: nn.Module) -> dict[str, nn.Linear]:
        """The linear layers that text enters first, by name: keys and values of cross-attention, or what embeds the text."""
        return self._denoiser.projections(model)

    def attention_maps(self, model: nn.Module, x_t: Tensor, t: Tensor, text: Tensor) -> Attended:
        """`predict`, and the maps of all layers of cross-attention, with gradients."""
        layers = self._denoiser.crossings(model)
        if not layers:
            raise RequestError(f"a {type(model).__name__} has no layers of cross-attention of diffusers (named attn2), so nobody "
                               "can see where it looks at a word; nothing was started. Choose a method without maps, e.g. esd.")
        with recorded(layers, (x_t.shape[2], x_t.shape[3])) as maps:
            return Attended(self.predict(model, x_t, t, text), maps)

    def named_tokens(self, prompts: Sequence[str], ends: bool = False) -> Tensor:
        """Which of the tokens that cross-attention looks at spell the concepts; with `ends` the end token and padding that
        repeats it, too.  -> [n, L] bool"""
        return self._denoiser.spelling(prompts, self.wordings, ends)

    def check_family(self, original: nn.Module, splits: Mapping[str, Split]) -> None:
        """Shapes and ranges, before any work starts."""
        self._convolutions = has_convolutions(original)
        self._captions = self.captions(splits["forget"]) if self._replaces and "forget" in splits else []
        channels = self.shape[0]
        for name, split in splits.items():
            require_columns(name, split, ("image", "tokens"), "a diffusion task needs image and tokens.")
            shape = split.shape("image")
            if len(shape) != 4 or shape[1] != channels:
                raise OutputShape(f"images of {name!r} are {shape}, but the network takes [n, {channels}, H, "
                                  "W], so nothing could be predicted. Latent models take encoded pixels: "
                                  "Pipeline.encode(x).")
            if split.pending("image"):
                continue   # the original draws them when they are first read
            image = split.columns["image"]
            if not image.is_floating_point() or (self._parts.vae is None and float(image.abs().max()) > 1.01):
                raise DataError(f"images of {name!r} are not floats in [−1, 1] ({image.dtype}, up to "
                                f"{float(image.max()):g}), so noise levels would be wrong. Scale them: x / 127.5 − 1.")
