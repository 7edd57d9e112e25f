"""Language models: any Hugging Face `…ForCausalLM` with its tokenizer; forgets answers to prompts, or plain text.

    task = lethe.language_model("folder/of/the/model", train="qa.jsonl", forget=lethe.where(entity="Ada Brill"))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lethe.core.config import Count, build, config
from lethe.core.modules import given
from lethe.core.parked import parked
from lethe.core.registry import family
from lethe.core.sequences import Format
from lethe.core.split import Split, concat
from lethe.core.task import Recipe
from lethe.core.user_files import lines_of
from lethe.data import editions
from lethe.data.context import Context
from lethe.data.paths import under_root
from lethe.data.records import Record, read_rows
from lethe.data.select import Where, divide
from lethe.data.text import apart, divided, marked, require_apart, tokenised
from lethe.errors import EmptySplit, RequestError
from lethe.models.adapter import base_of, fresh, is_adapter, is_of_language
from lethe.models.deployed import ServedText, address, is_served_text
from lethe.models.lm.folder import (
    LoadedFolder,
    Precision,
    load_folder,
    load_tokenizer,
    read_folder,
    recomputing,
    require_causal,
)
from lethe.models.lm.gguf_file import is_gguf, load_gguf
from lethe.models.lm.small import Attention, TinyLlama, llama, train_tokenizer
from lethe.models.lm.task import Language
from lethe.models.opened import Load, Make, Opened, SavedFiles, Sections

__all__ = ["Language", "language_model", "load_folder", "load_tokenizer", "open_request"]


Rows = Sequence[Mapping[str, Any]] | Split | str | Path


def language_model(
    model: nn.Module | str | Path,
    tokenizer: Any = None,
    forget: Any = None,
    retain: Rows | None = None,
    holdout: Rows | None = None,
    test: Rows | None = None,
    *,
    train: Rows | None = None,
    others: Mapping[str, Rows] | None = None,
    recipe: Recipe | None = None,
    build: Callable[[int], nn.Module] | None = None,
    name: str = "language model",
    refusals: Sequence[str] = (),
    layer: int | None = None,
    adapter: str | Path | None = None, packing: bool = False,
    **form: Any,
) -> Language:
    """A task from any causal language model and records in memory.

    model, tokenizer  objects of transformers, or the local folder that holds both; or that of a LoRA adapter on a local base
    adapter           of a base in a folder: the folder of a LoRA adapter, which alone moves and comes back
    forget, retain    records: dictionaries, a file (.jsonl, .json, .csv, .tsv, .parquet, .txt), a folder that `save_to_disk`
                      wrote, or a Split; or provide `train` and let `forget` select (`lethe.where(column={"author": 7})`)
    others            further splits that audits use by name: `real_authors` and `world_facts` (audit `tofu`)
    refusals          answers that relabelling methods teach instead; packing: whether short sequences share a row of a pass
    form              options of `lethe.core.sequences.Format`: prompt, answer, text, id (columns), template,
                      max_length, long
    """
    found: LoadedFolder
    if isinstance(model, (str, Path)):
        tokenizer = tokenizer if tokenizer is not None else load_tokenizer(holding_words(Path(model), adapter))
        given((found := read_folder(model, adapter=adapter)).model)
    else:
        require_causal(model, "the model")
        found = LoadedFolder(model)
    if tokenizer is None:
        raise RequestError("a language model was passed without its tokenizer, so no text can be read; nothing was "
                           "started. Pass tokenizer=, or the folder that holds both.")
    writing = _form(form)

    def split(rows: Rows, part: str) -> Split:
        if isinstance(rows, Split):
            return rows
        return tokenised(read_rows(rows) if isinstance(rows, (str, Path)) else rows, tokenizer, writing, part)

    further = {"retain": retain, "holdout": holdout, "test": test, **(others or {})}
    splits = _splits(split, train, forget, {key: rows for key, rows in further.items() if rows is not None})
    return Language(found.model, splits, tokenizer, recipe, build, name, _shown(splits, tokenizer), form=writing,
                    refusals=refusals, layer=layer, types=found.types, source=found.source, adapter=found.adapter, packed=packing)


def _splits(
    split: Callable[[Rows, str], Split], train: Rows | None, forget: Any, further: Mapping[str, Rows]
) -> dict[str, Split]:
    """Forget and retain, divided from `train` where there is one, and the further splits."""
    splits: dict[str, Split] = {}
    if train is not None:
        splits["forget"], splits["retain"] = divide(split(train, "train"), forget)
    elif forget is None:
        raise EmptySplit("no forget records were provided, so there is nothing to forget. Pass forget=, or train= and a "
                         "selection.")
    else:
        splits["forget"] = split(forget, "forget")
    return apart(splits | {key: split(rows, key) for key, rows in further.items()})


def _shown(splits: Mapping[str, Split], tokenizer: Any) -> dict[str, Any]:
    """One record as tokens, for the page: how prompts and answers were written."""
    split = splits.get("retain", next(iter(splits.values())))
    return {"tokens, those that count in brackets": marked(split, 0, tokenizer)}


def _form(options: Mapping[str, Any]) -> Format:
    return build(Format, options)


@config(name="model")
class ModelSource:
    """`model:` of a language-model request: a local folder, or a small Llama that the recipe trains on the data."""

    folder: str | None = None                   # the model: written by save_pretrained; safetensors
    adapter: str | None = None                  # LoRA adapter on folder: it alone moves and comes back [tested in test_adapters]
    base: str | None = None                     # what the recipe fine-tuned to get it: allows retraining without the forget set
    tiny: Mapping[str, Any] | None = None       # sizes of lethe.models.lm.small.TinyLlama; {} for the defaults
    attention: Attention = "auto"               # what transformers chooses; second derivatives on CPU need eager
    dtype: Precision = "float32"                # of the weights in memory; own: as in the folder. They are saved as they came
    layer: int | None = None                    # block whose output is the feature; default: the middle one
    packing: bool = False                       # short sequences share a row: fewer pads [changes nothing: same numbers]
    checkpointing: bool = False                 # recompute activations when training: less memory [changes nothing: same numbers]


@config(name="data")
class TextSource:
    """`data:` of a language-model request. The forget selection, or `forget`, divides `train`; or `forget` and `retain`."""

    train: str | tuple[str, ...] | None = None   # .jsonl, .json, .csv, .tsv, .txt (also .gz), .parquet, data set; a list: several
    forget: str | None = None                   # of train: what equals one of these records; without train a part of its own
    retain: str | None = None                   # beside forget without train
    holdout: Any = None                         # a file, or a selection from `train` that is kept out of training
    test: Any = None                            # the same
    select: Any = None                          # what of `train` is trained on; default: all but holdout and test
    others: Mapping[str, str] = field(default_factory=dict)   # further splits by name, e.g. real_authors and world_facts of TOFU
    published: Mapping[str, Any] | None = None  # {kind: lume_set, …}: parts of a published benchmark, lethe describe published
    refusals: str | None = None                 # file with one refusal per line, for methods that relabel
    prompt: str = "prompt"                      # column names, template and limits: see lethe.core.sequences.Format
    answer: str = "answer"
    text: str = "text"
    id: str | None = None
    messages: str = "messages"                  # whole conversations, whose last message is the answer
    tools: str = "tools"
    template: str = "{prompt} {answer}"         # or chat: the tokenizer's chat template
    system: str = ""                            # of chats: system message in front of single prompts
    template_args: Mapping[str, Any] = field(default_factory=dict)   # of chats: e.g. enable_thinking: false
    date: str = "2024-07-26"                    # of chats: the day that a template is told
    max_length: Count = 512
    long: Literal["error", "cut", "split"] = "error"


def open_files(files: SavedFiles) -> tuple[Make, Load]:
    """Language models from `save_pretrained` folders, GGUF files or an address of OpenAI's form; records from .jsonl or .txt.

    model.name: of what an address serves; model.attention, model.dtype: of folders
    """
    folder = next((path for path in (files.unlearned, files.original)
                   if path and not is_served_text(path) and not is_gguf(path)), None)
    if folder is None:
        raise RequestError(f"{files.unlearned} holds no tokenizer that can be used, and no folder holds the model from before; "
                           "nothing was read. Provide --original FOLDER.")
    tokenizer = load_tokenizer(holding_words(Path(folder)))
    parts: dict[str, Any] = dict(files.parts)
    options = {key: value for key, value in files.model.items() if key != "name"}

    def load(path: str) -> nn.Module:
        if is_served_text(path):
            return ServedText(address(path), str(files.model.get("name", "")))
        return load_gguf(path) if is_gguf(path) else parked(load_folder(path, **options))

    return lambda model: language_model(model, tokenizer, **parts, name="audit of files", **files.data), load


def is_saved(path: Path) -> bool:
    """Whether a path is a `save_pretrained` folder of transformers, a GGUF file, or the address of a language model."""
    return is_served_text(path) or is_gguf(path) or (path / "config.json").exists() or (
        is_adapter(path) and is_of_language(path) is not False)


@family(model=ModelSource, data=TextSource, method="npo", make="language_model", about="behaviour",
        marks="config.json: ForCausalLM|LMHeadModel",
        asks=(("model.folder", "Model: a folder written by save_pretrained"), ("data.forget", "What to forget: .jsonl or .txt"),
              ("data.retain", "What to keep: the same"),
              ("data.holdout", "Unseen texts of the same kind (none: fewer audits)", "")),
        files=open_files, recognises=is_saved)
def open_request(sections: Sections, context: Context) -> Opened:
    """Read `model` and `data` of a language-model request."""
    source, data = build(ModelSource, sections.model), build(TextSource, sections.data)
    if (source.folder is None) == (source.tiny is None):
        raise RequestError("model: set either folder (a local save_pretrained folder) or tiny (a small Llama trained "
                           "here); nothing was started.")
    if data.train is not None and data.retain is not None:
        raise RequestError("data.train and data.retain are both given, so it is not clear what stays; nothing was started. Write "
                           "train, of which forget: or data.forget says what goes, or data.forget and data.retain.")
    form = build(Format, {f.name: getattr(data, f.name) for f in dataclasses.fields(Format)})
    files = _files(data, context)
    published = _published(data, context, list(files))
    if source.folder is not None:
        folder = under_root(context.data_root, source.folder)
        adapter = under_root(context.data_root, source.adapter) if source.adapter is not None else None
        tokenizer: Any = load_tokenizer(holding_words(folder, adapter))
        found: LoadedFolder | None = (whole := read_folder(folder, source.attention, source.dtype, adapter))
        given(recomputing(whole.model) if source.checkpointing else whole.model)
    else:
        sizes = build(TinyLlama, {**(source.tiny or {}), "attention": source.attention})
        told = [(files, (data.prompt, data.answer, data.text)), (published, ("prompt", "answer", "text"))]
        texts = [str(row[c]) for held, columns in told for rows in held.values() for row in rows for c in columns if c in row]
        tokenizer, found = train_tokenizer(texts, sizes.vocabulary), None
    splits = {key: tokenised(rows, tokenizer, form, key) for key, rows in files.items()}
    usual = dataclasses.replace(form, prompt="prompt", answer="answer", text="text", id=None)
    splits |= {key: tokenised(rows, tokenizer, usual, key) for key, rows in published.items()}
    chosen = splits.pop("forget") if {"train", "forget"} <= splits.keys() else None   # some of train: they keep its ids
    splits = apart(splits)
    if "train" in splits:
        splits = _selected(splits, data)
    if chosen is not None:
        splits["forget"], splits["retain"] = divided(splits["train"], chosen)
    if found is None and "train" not in splits:   # the recipe trains the small Llama on all of it
        splits["train"] = concat([splits[role] for role in ("retain", "forget") if role in splits], "train")
    recipe = sections.recipe
    refusals = lines_of(under_root(context.data_root, data.refusals), "data.refusals").splitlines() if data.refusals else []

    make = _recomputed(source, _maker(source, context, found, tokenizer))

    def task(model: nn.Module, parts: dict[str, Split], name: str) -> Language:
        require_apart(parts)
        came = found or LoadedFolder(model)
        return Language(model, parts, tokenizer, recipe, make, name, _shown(parts, tokenizer), form=form,
                        refusals=[r for r in refusals if r], layer=source.layer, types=came.types, source=came.source,
                        adapter=came.adapter, packed=source.packing)

    exact = "" if make is not None else "model.base (what the model was fine-tuned from) is not set, so it cannot be retrained"
    below = found.source if found and found.adapter else None
    return Opened(splits, task, lambda folder: parked(load_folder(folder, source.attention, source.dtype, below)),
                  found.model if found else None, recipe, make, exact)


def _files(data: TextSource, context: Context) -> dict[str, list[Record]]:
    """The records of every part that is a file, or several."""
    named = {key: getattr(data, key) for key in ("train", "forget", "retain", "holdout", "test")}
    return {key: [row for one in ((value,) if isinstance(value, str) else value)
                  for row in read_rows(under_root(context.data_root, one))]
            for key, value in {**named, **data.others}.items() if isinstance(value, (str, tuple))}


def _published(data: TextSource, context: Context, given: Sequence[str]) -> dict[str, list[Record]]:
    """The records of every part of a published benchmark; RequestError for one that a file gives, too."""
    found = editions.parts(data.published, context) if data.published is not None else {}
    if twice := sorted(found.keys() & set(given)):
        raise RequestError(f"data.{twice[0]} and data.published both give {twice[0]}, so it is not clear which is meant; nothing "
                           "was started. Leave one out.")
    return found


def _maker(source: ModelSource, context: Context, found: LoadedFolder | None, tokenizer: Any
           ) -> Callable[[int], nn.Module] | None:
    """What a training by the recipe starts from, by seed; None where that is unknown. Of an adapter: its base with a new one."""
    if found is None:
        sizes = build(TinyLlama, {**(source.tiny or {}), "attention": source.attention})
        return lambda seed: llama(sizes, tokenizer)
    if found.adapter is not None:
        base, came = str(found.source), found.adapter
        return lambda seed: fresh(load_folder(base, source.attention, source.dtype), came, seed)
    if source.base is None:
        return None
    start = under_root(context.data_root, source.base)
    return lambda seed: load_folder(start, source.attention, source.dtype)


def _recomputed(source: ModelSource, make: Callable[[int], nn.Module] | None) -> Callable[[int], nn.Module] | None:
    """Models that recompute their activations where the request says so."""
    if make is None or not source.checkpointing:
        return make
    return lambda seed: recomputing(make(seed))


def _selected(splits: dict[str, Split], data: TextSource) -> dict[str, Split]:
    """`holdout` and `test` that are selections are taken from `train`; `select` selects what of the rest is trained on."""
    whole = splits["train"]
    rest = torch.ones(len(whole), dtype=torch.bool).numpy()
    for key in ("holdout", "test"):
        if isinstance(value := getattr(data, key), Mapping):
            mask = build(Where, value).mask(whole)
            splits[key] = whole.subset(mask, key)
            rest &= ~mask
    if data.select is not None:
        rest &= build(Where, data.select).mask(whole)
    splits["train"] = whole.subset(rest, "train").require_examples("Check data.select.")
    return splits


def holding_words(folder: Path, adapter: str | Path | None = None) -> Path:
    """The folder whose tokenizer counts: that of the adapter where it has one, else that of the base."""
    adapter = Path(adapter) if adapter is not None else folder if is_adapter(folder) else None
    if adapter is not None and (adapter / "tokenizer_config.json").exists():
        return adapter
    return base_of(folder) if is_adapter(folder) else folder
