"""Text-to-image diffusion: making tasks from pipelines, pictures and captions, or from a request file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.code import named as code_named
from lethe.core.concepts import Concept, concepts_of, named_in, names
from lethe.core.config import Count, Natural, NonNegative, build, config, digest, plain
from lethe.core.modules import device_of, given, private, state_fingerprint
from lethe.core.registry import family
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.core.store import Later, later
from lethe.core.task import Recipe
from lethe.data.context import Context
from lethe.errors import NotFinite, RequestError, nearest
from lethe.models.diffusion.clip_judge import load_clip
from lethe.models.diffusion.denoiser import denoiser_of
from lethe.models.diffusion.files import load_one_file, load_pipeline, read_again
from lethe.models.diffusion.judge import Judge
from lethe.models.diffusion.listed import listed
from lethe.models.diffusion.pictures import captioned, pictures
from lethe.models.diffusion.pipeline import Pipeline
from lethe.models.diffusion.reading import require_read
from lethe.models.diffusion.sampling import Sampler
from lethe.models.diffusion.task import Diffusion
from lethe.models.diffusion.vlm_judge import answers, load_vlm
from lethe.models.diffusion.word_judge import JudgeParts
from lethe.models.opened import Opened, Sections
from lethe.train.settings import accelerator

__all__ = ["Diffusion", "captioned", "open_request", "text_to_image"]

Retain = Literal["all", "kept"]

PARTLY = ("data.retain=kept hands methods a part of the other pictures alone, so training on it without the forget set would be "
          "another model than retraining")


def text_to_image(
    pipeline: Pipeline | str | Path,
    concept: str | Concept | Mapping[str, Any] | Sequence[str | Concept | Mapping[str, Any]],
    keep: Sequence[str],
    prompts: Sequence[str] = (),
    outside: Sequence[str] = (),
    images: Split | Sequence[tuple[Tensor, str]] | None = None,
    holdout: Split | Sequence[tuple[Tensor, str]] | None = None,
    per_prompt: int = 20,
    anchor: str = "",
    recipe: Recipe | None = None,
    build: Callable[[int], nn.Module] | None = None,
    judge: Judge | JudgeParts | None = None,
    steps: int = 50,
    guidance: float = 7.5,
    seed: int = 0, name: str = "text to image", retain: Retain = "all",
) -> Diffusion:
    """A task: forget `concept` from a pipeline.

    pipeline  a diffusers folder (safetensors only) or its parts
    concept   the words to be forgotten, e.g. "disk" or "van gogh"; {"concept": …, "synonyms": […], "prompts": […],
              "replacement": …}; or a list of both
    keep      prompts without the concept whose pictures are to stay; methods may use them
    prompts   prompts with the concept, where it is one; default: the concept itself
    outside   prompts without the concept that no method sees; audits ask whether they suffered
    images    pictures with captions, [C, H, W] in [−1, 1]; those whose caption names the concept are the forget set.
              None: the original draws `per_prompt` pictures for each of `prompts` (forget) and `keep` (retain)
    steps, guidance  of sampling, here and in the audits; at guidance 1 small models draw best
    retain    which other pictures methods may use, of those that were given: all, or those whose caption is one of `keep`
    """
    parts = dataclasses.replace(pipeline) if isinstance(pipeline, Pipeline) else load_pipeline(pipeline)
    if isinstance(pipeline, Pipeline):   # the caller may write to hers: what is drawn later is a copy's
        parts.network = private(parts.network)
    given(parts.network)
    concepts = _prompted(concepts_of(concept), prompts)
    _require_known(judge, concepts)
    groups = _groups(parts, concepts, keep, outside, anchor)
    facts: dict[str, Any] = {"concept": ", ".join(one.concept for one in concepts)}
    if images is None:
        facts["forget"] = facts["retain"] = f"drawn by the original, {per_prompt} pictures per prompt"
        _require_prompts(parts)
        sampler, named = Sampler(denoiser_of(parts)), {"forget": groups["forget"], "retain": groups["keep"]}
        made = (drawn(sampler, chosen, per_prompt, derive(seed, name), name, steps, guidance)
                for name, chosen in named.items() if chosen)
        splits = {some.name: _by_concept(some, _named(some, concepts)) for some in made}
    else:
        splits = _by_caption(captioned(parts, images, "train"), concepts, keep if retain == "kept" else None)
    if holdout is not None:
        splits["holdout"] = captioned(parts, holdout, "holdout")
    return Diffusion(parts, splits, recipe, build, name, facts, concepts, groups, anchor, judge, steps, guidance)


def _groups(parts: Pipeline, concepts: tuple[Concept, ...], keep: Sequence[str], outside: Sequence[str], anchor: str
            ) -> dict[str, list[str]]:
    """The prompts by what becomes of them. RequestError for a concept that is not read, or that stays as well."""
    require_read(denoiser_of(parts), concepts)
    asked = list(dict.fromkeys(prompt for one in concepts for prompt in one.asked))
    groups = {"forget": asked, "keep": list(keep), "outside": list(outside)}
    _require_unnamed(groups, concepts)
    _require_one_anchor(concepts, anchor)
    return groups


def _prompted(concepts: tuple[Concept, ...], prompts: Sequence[str]) -> tuple[Concept, ...]:
    """The concepts with the prompts that stand beside them. RequestError where it is unclear whose they are."""
    if not prompts:
        return concepts
    if len(concepts) > 1 or concepts[0].prompts:
        raise RequestError(f"the prompts {list(prompts)[:2]} stand beside {len(concepts)} concepts or beside others of theirs, "
                           "so it is unclear whose they are; nothing was started. Write prompts with each concept.")
    return concepts_of(dataclasses.replace(concepts[0], prompts=tuple(prompts)))


def _require_known(judge: Judge | JudgeParts | None, concepts: Sequence[Concept]) -> None:
    """RequestError for a classifier that does not know what is to be forgotten."""
    if not isinstance(judge, Judge):
        return
    for one in concepts:
        if not any(judge.attribute_of(word) for word in one.wordings):
            values = [value for known in judge.attributes.values() for value in known]
            raise RequestError(f"the judge knows no {one.concept!r}{nearest(one.concept, values)}, so it could not say whether "
                               f"it is gone; nothing was started. It knows: {', '.join(values[:12])}. Write its word as concept "
                               "or synonym, or leave the judge out: the original then judges.")


def _require_unnamed(groups: Mapping[str, Sequence[str]], concepts: Sequence[Concept]) -> None:
    """RequestError when a prompt that is to stay, or a replacement, names a concept."""
    replacements = [one.replacement for one in concepts if one.replacement]
    for group, prompts in (("keep", groups["keep"]), ("outside", groups["outside"]), ("replacement", replacements)):
        for one in concepts:
            naming = [prompt for prompt in prompts if names(prompt, one.wordings)]
            if naming:
                raise RequestError(f"{group} prompt {naming[0]!r} names the concept {one.concept!r}, so it would be kept and "
                                   "forgotten at once. Remove it, or word the concept more narrowly.")


def _require_one_anchor(concepts: Sequence[Concept], anchor: str) -> None:
    if anchor and any(one.replacement for one in concepts):
        raise RequestError(f"data.anchor = {anchor!r} and the replacement of a concept both say what takes its place; nothing "
                           "was started. Leave one of them out.")


def _by_caption(pictures: Split, concepts: Sequence[Concept], kept: Sequence[str] | None = None) -> dict[str, Split]:
    """Pictures whose caption names a concept are forgotten, the others retained; of these only the `kept` captions if given."""
    named = _named(pictures, concepts)
    mask, pictures = np.array([bool(name) for name in named]), _by_concept(pictures, named)
    retained = ~mask if kept is None else np.array([text in set(kept) for text in pictures.meta["caption"]])
    return {"forget": pictures.subset(mask, "forget"), "retain": pictures.subset(retained, "retain")}


def _named(pictures: Split, concepts: Sequence[Concept]) -> list[str]:
    """The first concept that each caption names, empty where none is."""
    found = {text: next((one.concept for one in named_in([text], concepts)), "") for text in set(pictures.meta["caption"])}
    return [found[text] for text in pictures.meta["caption"]]


def _by_concept(pictures: Split, named: list[str]) -> Split:
    """With a column `concept`, unless they have one of their own."""
    return dataclasses.replace(pictures, meta={"concept": named, **pictures.meta})


def drawn(
    sampler: Sampler, prompts: Sequence[str], per_prompt: int, seed: int, name: str, steps: int, guidance: float
) -> Split:
    """Pictures that the original draws for prompts, as a split; they are drawn when the first of them is read, on its device."""
    captions = [prompt for prompt in prompts for _ in range(per_prompt)]
    denoiser = sampler.denoiser
    network = denoiser.parts.network
    tokens = denoiser.tokens(captions)

    def draw() -> Tensor:
        device = device_of(network)
        fast = network.to(accelerator() if device.type == "cpu" else device)
        images = sampler.draw(fast, sampler.text(tokens), seed, steps, guidance)
        network.to(device)
        if not torch.isfinite(images).all():
            raise NotFinite(f"the original draws NaN or infinity for {captions[0]!r} or a prompt beside it, so nothing could be "
                            "learned from its pictures. Check the weights of every part, and the scheduler.")
        return images.clamp(-1, 1) if denoiser.parts.vae is None else images

    def origin() -> str:
        said = plain([state_fingerprint(network), captions, seed, steps, guidance, dict(denoiser.parts.scheduler.config)])
        return f"drawn {digest(said)}"

    shape = (len(captions), *denoiser.shape)
    columns = later(Later({"tokens": tokens}, {"image": draw}, {"image": shape}, origin), len(captions))
    return Split(columns, name, meta={"caption": captions})


def _require_prompts(parts: Pipeline) -> None:
    if "prompts" in denoiser_of(parts).lacks:
        raise RequestError("the network reads no prompt, so it cannot draw what is to be forgotten; nothing was started. Provide "
                           "pictures with captions, which say what they show: data.folder.")


# -- requests ----------------------------------------------------------------------------------------------------------


@config(name="model")
class ModelSource:
    """`model:` of a diffusion request: a diffusers folder, or the small model of shapes that the recipe trains."""

    folder: str | None = None            # diffusers folder: unet/ or transformer/, scheduler/, and what it reads with
    file: str | None = None              # the pipeline in one file, beside a `folder` of its kind  [e.g. sd.safetensors]
    variant: str = ""                    # of the weights, where there are several              [e.g. fp16]
    size: Natural = 0                    # pixels a side; 0: what the network was made for       [e.g. 512]
    checkpointing: bool = False          # recompute activations when training: less memory [changes nothing: same numbers]
    tiling: bool = False                 # the VAE sees one tile of one picture at a time: less memory, faint seams
    tiny: bool = False                   # the 8×8 model of coloured shapes
    width: Count = 32                    # channels of the tiny model
    seed: Natural = 0                    # of the tiny model's frozen text encoder


@config(name="data")
class DataSource:
    """`data:` of a diffusion request: what is kept, as prompts, and the pictures if there are any. What is forgotten, `forget:
    {concept: …}` says, or `concept` and `prompts` here."""

    concept: str = ""                    # words to be forgotten, where `forget` does not say it
    keep: tuple[str, ...] = ()           # prompts that methods may use to preserve
    prompts: tuple[str, ...] = ()        # prompts with the concept; empty: the concept itself
    outside: tuple[str, ...] = ()        # prompts that only audits see
    shapes: Natural = 0                  # that many rendered coloured shapes as training data
    folder: str | None = None            # pictures with captions.csv: file, caption, perhaps mask (a file, white where it is)
    retain: Retain = "all"               # other pictures that methods may use: all, or those captioned as in `keep`
    published: Mapping[str, Any] | None = None   # {kind: hub_set, …}: prompts of a published list, lethe describe published
    per_prompt: Count = 20               # pictures drawn per prompt when there are none
    judge: str = ""                      # a folder of CLIP, SigLIP or LLaVA, or file.py:function; empty: the original itself
    anchor: str = ""                     # what relabelling writes instead of a caption
    steps: Count = 50                    # of the sampler
    guidance: NonNegative = 7.5          # of the sampler; 1 or less: none, for tiny models and those of few steps
    seed: Natural = 0


@family(model=ModelSource, data=DataSource, method="mim_mu", make="text_to_image", about="concept", marks="model_index.json",
        asks=(("model.folder", "Model: a diffusers folder"), ("data.concept", "Words to forget"),
              ("data.keep", "Prompts to keep: [a red square, …]", "[]")))
def open_request(sections: Sections, context: Context) -> Opened:
    """Read `model` and `data` of a diffusion request. `forget: {concept: …}`, or data.concept, says what is forgotten; of
    pictures `forget` may choose in any other way."""
    source, data = build(ModelSource, sections.model), build(DataSource, sections.data)
    recipe = sections.recipe
    _require_one_source(source, data)
    parts, judge = _parts(source, data)
    images, holdout = _pictures(data, parts)
    own = {"forget": data.prompts, "keep": data.keep, "outside": data.outside}
    lists = {**own, **listed(data.published, own, context)}

    def fresh(seed: int) -> nn.Module:
        kind: Any = type(parts.network)
        model: nn.Module = kind.from_config(parts.network.config)
        return model

    def load(folder: Path) -> nn.Module:
        if source.file and source.folder:
            return load_one_file(folder / Path(source.file).name, source.folder).network
        return read_again(folder, parts)

    def opened(concepts: tuple[Concept, ...], prompts: Mapping[str, list[str]], splits: dict[str, Split], facts: dict[str, Any],
               again: Callable[[Any], Opened] | None = None) -> Opened:
        def task(model: nn.Module, given: dict[str, Split], name: str) -> Diffusion:
            mine = dataclasses.replace(parts, network=model)
            return Diffusion(mine, given, recipe, fresh, name, facts, concepts, prompts, data.anchor, judge, data.steps,
                             data.guidance)

        if images is not None:
            splits["train"] = captioned(parts, images, "train")
        return Opened(splits, task, load, None if source.tiny else parts.network, recipe, fresh, facts=facts, concepts=again,
                      unrepeatable=PARTLY if data.retain == "kept" else "")

    def told(said: Any) -> Opened:
        """What is opened where these are the concepts."""
        _require_told_once(data, said)
        whole = text_to_image(
            parts, concepts_of(said), lists["keep"], lists["forget"], lists["outside"], images, holdout, data.per_prompt,
            data.anchor, recipe, fresh, judge, data.steps, data.guidance, data.seed, retain=data.retain,
        )
        prompts = {**{part: list(some) for part, some in lists.items()}, **whole.prompts}
        return opened(whole.concepts, prompts, dict(whole.splits), whole.facts)

    if data.concept:
        return dataclasses.replace(told(data.concept), concepts=told)
    unseen = {} if holdout is None else {"holdout": captioned(parts, holdout, "holdout")}
    return opened((), {part: list(some) for part, some in lists.items() if part != "forget"}, unseen, {}, told)


def _parts(source: ModelSource, data: DataSource) -> tuple[Pipeline, Judge | JudgeParts | None]:
    """The pipeline of a request, and the judge that it names, or the tiny one's."""
    named = _judge(data.judge) if data.judge else None
    if source.tiny:
        from lethe.models.diffusion import small as tiny_diffusion

        made = tiny_diffusion.pipeline(source.seed, width=source.width, guided=data.guidance > 1)
        return made, named or tiny_diffusion.judge()
    assert source.folder is not None
    opened = load_one_file(Path(source.file), source.folder) if source.file else load_pipeline(source.folder, source.variant)
    parts = dataclasses.replace(opened, size=source.size)
    given(parts.network)
    if source.checkpointing:
        checkpointed(parts.network)
    if source.tiling:
        tiled(parts.vae)
    return parts, named


def _judge(said: str) -> Judge | JudgeParts:
    """A folder of CLIP, SigLIP or LLaVA, or what file.py:function returns: (module, {attribute: values})."""
    if ".py:" not in said:
        return load_vlm(said) if answers(said) else load_clip(said)
    made = code_named(said, "data.judge")()
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module) and isinstance(made[1], Mapping)):
        raise RequestError(f"data.judge = {said!r} returned a {type(made).__name__}, so nobody could read pictures; nothing was "
                           "started. Return (module, {attribute: [value, …]}): the module maps pictures [n, 3, H, W] in [−1, 1] "
                           "to the logits of all values, one attribute after the other.")
    return Judge(made[0].eval(), {str(name): tuple(map(str, values)) for name, values in made[1].items()})


def _require_told_once(data: DataSource, said: Any) -> None:
    if data.concept and said is not data.concept:
        raise RequestError(f"data.concept = {data.concept!r} and forget: {{concept: …}} both say what is to be forgotten; "
                           "nothing was started. Leave data.concept out.")


def _require_one_source(source: ModelSource, data: DataSource) -> None:
    """RequestError unless there is one model, and at most one source of pictures (exactly one for the tiny model)."""
    if source.file and not source.folder:
        raise RequestError(f"model.file={source.file!r} does not say how its parts are put together; nothing was started. Set "
                           "model.folder to a diffusers folder of its kind.")
    if source.tiny == (source.folder is not None):
        raise RequestError(f"model sets folder={source.folder!r} and tiny={source.tiny}, but exactly one is needed; "
                           "nothing was started. Set model: {folder: …} for your pipeline.")
    if data.shapes and data.folder:
        raise RequestError("data sets both shapes and folder, so it is unclear what the pictures are; nothing was "
                           "started. Set one of them.")
    if source.tiny and not data.shapes and not data.folder:
        raise RequestError("the tiny model has no trained weights, so it needs pictures to learn from; nothing was "
                           "started. Set data.shapes: 1024.")


def checkpointed(network: Any) -> None:
    """Let a network recompute its activations while it trains, copies of it too. RequestError where it cannot."""
    if not getattr(network, "_supports_gradient_checkpointing", False):
        raise RequestError(f"model.checkpointing is set, but a {type(network).__name__} cannot recompute its activations; "
                           "nothing was started. Leave it out.")
    network.enable_gradient_checkpointing()


def tiled(vae: Any) -> None:
    """Let a VAE encode and decode a picture after the other, each in tiles. RequestError where it cannot."""
    if not hasattr(vae, "enable_tiling"):
        why = "there is no VAE" if vae is None else f"a {type(vae).__name__} knows no tiles"
        raise RequestError(f"model.tiling is set, but {why}; nothing was started. Leave it out.")
    vae.enable_tiling()
    vae.enable_slicing()


def _pictures(data: DataSource, parts: Pipeline) -> tuple[Split | None, Split | None]:
    """(pictures with captions, holdout) that a request names; None where it names none."""
    if data.shapes:
        from lethe.data.shapes import shapes

        return shapes(data.shapes, data.seed), shapes(max(16, data.shapes // 4), data.seed, "holdout")
    return (pictures(Path(data.folder), parts) if data.folder else None), None
