"""One entry for data of every kind: `load({'kind': 'table', 'path': 'adult.csv', 'label': 'income', 'holdout': 0.2})`.

A kind is a file in `lethe/data/sources`; its options are the fields of its config. Holdout and test come from the
source itself, from elsewhere (a path, or options that replace those of the source), or are split off by a seeded
fraction, before statistics are computed and before anything is trained. `holdout: test` takes a seeded half of the
source's own test part.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from lethe.core import catalogue
from lethe.core.catalogue import entries, entry
from lethe.core.config import Count, build, config
from lethe.core.seeds import numpy_generator
from lethe.core.split import SEVERAL, Split, concat
from lethe.core.user_files import understood
from lethe.data.context import Context
from lethe.data.paths import existing
from lethe.data.poison import Poison, poisoned
from lethe.data.transform import Transform, transformed
from lethe.data.transform import options as of_transform
from lethe.errors import DataError, EmptySplit, RequestError, UnknownKey, WrongColumn, nearest, unknown_name

REMEDY = "Repair the file, or correct the options of data that say how it is read."
Share = Annotated[float, Field(gt=0, lt=1)]


@config
class Data(Transform):
    """Options that every kind of source has."""

    holdout: Share | str | Mapping[str, Any] | None = None   # unseen data: share of train, path, options, `test`
    test: Share | str | Mapping[str, Any] | None = None      # data for utility: the same
    limit: Count | None = None           # at most so many examples of every part, a seeded choice
    drop_duplicates: bool = False        # leave out of holdout and test what equals a training example
    poison: Poison | None = None         # manipulate some of the training examples, see lethe.data.poison
    seed: int = 0                        # of the shares and the limit


def load(source: str | Path | Mapping[str, Any], context: Context | None = None) -> dict[str, Split]:
    """The parts of a source: `train`, and `holdout` and `test` where there are; columns x [n, …], y [n], ids, meta.

    source  a path, a kind's name, or a mapping with `kind` (or a `path` that implies it) and options
    """
    context = context or Context()
    options = _described(source)
    kind = options.pop("kind")
    module, cfg_type = _kind(kind)
    shared = {f.name for f in dataclasses.fields(Data)}
    own = {f.name for f in dataclasses.fields(cfg_type)}
    for key in options:
        if key not in shared | own:
            raise UnknownKey(f"data.{key} is not an option of {kind} data{nearest(key, shared | own)}, so nothing was "
                             f"read. Options: {', '.join(sorted(own) + sorted(shared))}.")
    wanted = build(Data, {k: v for k, v in options.items() if k in shared})
    inner = {k: v for k, v in options.items() if k in own}
    cfg: Any = build(cfg_type, inner)
    origin = _origin(options, kind)
    splits = _read(module, cfg, context, "train", origin)
    if "train" not in splits:
        raise DataError(f"the source has the parts {', '.join(splits)} but no train, so there is nothing to forget "
                        "from. Name its training part train.")
    for name in ("holdout", "test"):
        choice = getattr(wanted, name)
        if choice is not None and name in splits:
            raise RequestError(f"data.{name} = {choice!r}, but the source has a {name} part of its own "
                               f"({len(splits[name])} examples), so it is not clear which is meant. Leave data.{name} "
                               "out.")
        if (name, choice) == ("holdout", "test"):
            splits = halved(splits, wanted)
        elif isinstance(choice, (str, Mapping)):
            other = {**inner, **({"path": choice} if isinstance(choice, str) else choice)}
            found = _read(module, build(cfg_type, other), context, name, _origin(other, kind))
            if name not in found:
                raise DataError(f"data.{name} = {choice!r} has the parts {', '.join(found)} but no {name}. Provide a source "
                                "without wanted.")
            splits[name] = found[name]
    splits = limited(divided(splits, wanted), wanted)
    if hasattr(module, "encode"):
        with understood(origin, f"{kind} data", REMEDY):
            splits = module.encode(cfg, splits)
    _check(splits)
    if wanted.drop_duplicates:
        splits = without_duplicates(splits, context)
    splits = splits if wanted.poison is None else poisoned(splits, wanted.poison)
    return transformed(splits, Transform(**of_transform(options)))


def load_parts(files: Mapping[str, str | Path], options: Mapping[str, Any] | None = None, context: Context | None = None,
               labels: bool = True) -> dict[str, Split]:
    """Splits from one file each, `forget` and where given `retain`, `holdout`, `test`, read with the same options.

    What is learnt from the training part (standardisation, categories) is learnt from forget and retain together.
    labels: whether each must have a column y
    """
    context, read, given = context or Context(), {}, dict(options or {})
    last = Transform(**of_transform(given))
    for name, path in files.items():
        described = {**_described(path), **{k: v for k, v in given.items() if not hasattr(last, k)}, "path": str(path)}
        module, cfg_type = _kind(described.pop("kind"))
        own = [f.name for f in dataclasses.fields(cfg_type)]
        for key in described:
            if key not in own:
                raise UnknownKey(f"data.{key} is not an option of the data in {path}{nearest(key, own)}, so nothing was read. "
                                 f"Options: {', '.join(own)}.")
        read[name] = _read(module, build(cfg_type, described), context, name, Path(path))[name]
    if hasattr(module, "encode"):
        seen = [name for name in ("forget", "retain") if name in read]
        ends = np.cumsum([len(read[name]) for name in seen])
        read["train"] = concat([read[name] for name in seen], "train")
        read = module.encode(build(cfg_type, described), {k: v for k, v in read.items() if k not in seen})
        train = read.pop("train")
        for name, end, size in zip(seen, ends, np.diff(ends, prepend=0), strict=True):
            read[name] = train.subset(np.arange(end - size, end), name)
    _check({"train": read["forget"], **read}, labels)
    return transformed(read, last)


def _read(module: ModuleType, cfg: Any, context: Context, name: str, origin: Path) -> dict[str, Split]:
    """What a source reads; whatever else than an error on purpose its libraries raise about the file becomes one."""
    with understood(origin, f"{module.__name__.rsplit('.', 1)[-1]} data", REMEDY):
        found: dict[str, Split] = module.read(cfg, context, name)
        return found


def _origin(options: Mapping[str, Any], kind: str) -> Path:
    """The file that an error names: what the options call path, or x."""
    return Path(str(options.get("path") or options.get("x") or kind))


def kinds() -> list[str]:
    """The kinds of sources: the files in `sources`, and those of other packages."""
    return sorted(entries("sources"))


def learns(source: str | Path | Mapping[str, Any]) -> bool:
    """Whether inputs of this source are standardised or encoded by statistics of its whole training part."""
    return bool(entry("sources", _described(source)["kind"]).facts["learns"])


def divided(splits: dict[str, Split], wanted: Data) -> dict[str, Split]:
    """Holdout and test split off from train where a share is requested; within a part the order stays."""
    train = splits["train"].require_examples("Provide a source with examples.")
    order = numpy_generator(wanted.seed, "parts").permutation(len(train))
    shares = {name: choice for name in ("holdout", "test") if isinstance(choice := getattr(wanted, name), float)}
    size = {name: round(shares.get(name, 0) * len(train)) for name in ("holdout", "test")}
    for name, count in size.items():
        if name in shares and (not count or sum(size.values()) >= len(train)):
            raise EmptySplit(f"data.{name} = {shares[name]} of {len(train)} examples leaves train with "
                             f"{max(0, len(train) - sum(size.values()))} and {name} with {count}, and neither may be "
                             "empty. Change the share.")
    # test from the front and holdout from the back: setting one of them does not change the other
    chosen = {"test": order[: size["test"]], "holdout": order[len(order) - size["holdout"] :]}
    out = dict(splits)
    for name, index in chosen.items():
        if len(index):
            out[name] = train.subset(np.sort(index), name)
    if any(size.values()):
        out["train"] = train.subset(np.sort(order[size["test"] : len(order) - size["holdout"]]), "train")
    return out


def halved(splits: dict[str, Split], wanted: Data) -> dict[str, Split]:
    """The test part of the source in two: holdout and test."""
    if "test" not in splits or len(splits["test"]) < 2:
        raise RequestError("data.holdout = 'test', but the source has no test part to take it from; nothing was read. "
                           "Provide a share "
                           "of train: holdout: 0.2.")
    order = numpy_generator(wanted.seed, "halves").permutation(len(splits["test"]))
    cut = len(order) // 2
    return {**splits, "holdout": splits["test"].subset(np.sort(order[:cut]), "holdout"),
            "test": splits["test"].subset(np.sort(order[cut:]), "test")}


def limited(splits: dict[str, Split], wanted: Data) -> dict[str, Split]:
    """At most `wanted.limit` examples of every part."""
    if wanted.limit is None:
        return splits
    out = {}
    for name, split in splits.items():
        index = numpy_generator(wanted.seed, "limit", name).permutation(len(split))[: wanted.limit]
        out[name] = split.subset(np.sort(index), name)
    return out


def without_duplicates(splits: dict[str, Split], context: Context) -> dict[str, Split]:
    """Holdout and test without the examples whose content is also in train."""
    seen = set(splits["train"].contents())
    out = dict(splits)
    for name in ("holdout", "test"):
        if name in splits:
            fresh = np.array([content not in seen for content in splits[name].contents()], dtype=bool)
            out[name] = splits[name].subset(fresh, name).require_examples(f"All of {name} is also in train; provide other "
                                                                          "data.")
            context.progress(f"left {int((~fresh).sum())} duplicates of training examples out of {name}")
    return out


def _described(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The source as options with a kind."""
    if isinstance(source, Mapping):
        if "kind" in source:
            return dict(source)
        if "path" not in source:
            raise RequestError("data has neither kind nor path, so nothing can be read. Set data.kind, one of "
                               f"{', '.join(kinds())}.")
        return {**_described(source["path"]), **source}
    if str(source) in kinds():
        return {"kind": str(source)}
    path = Path(source).expanduser()
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    for kind, found in entries("sources").items():
        if suffix in found.facts["suffixes"]:
            return {"kind": kind, "path": str(path)}
    if path.is_dir():
        arrow = (path / "state.json").exists() or (path / "dataset_dict.json").exists()
        return {"kind": "dataset" if arrow else "images", "path": str(path)}
    if path.suffix or len(path.parts) > 1:
        existing(path)
    raise unknown_name("kind of data", str(source), kinds())


def _kind(name: str) -> tuple[ModuleType, type]:
    if name not in kinds():
        raise unknown_name("kind of data", name, kinds())
    module = catalogue.load("sources", name)
    return module, typing.get_type_hints(module.read)["cfg"]


def _check(splits: dict[str, Split], labels: bool = True) -> None:
    """Inputs of all parts have the shape that a model of the training part takes."""
    shapes = {name: {key: split.shape(key)[1:] for key in split.inputs} for name, split in splits.items() if split.inputs}
    for name, found in shapes.items():
        if found != shapes["train"]:
            one, other = (", ".join(f"{key.removeprefix(SEVERAL)} {shape}" if key != "x" else str(shape)
                                    for key, shape in of.items()) for of in (found, shapes["train"]))
            raise DataError(f"examples of {name} have shape {one}, those of train {other}, so no model "
                            "takes both. Provide both with the same size and colours.")
    missing = [name for name, split in splits.items() if not split.inputs or (labels and "y" not in split.columns)]
    if missing:
        raise WrongColumn(f"{missing[0]} has no columns x and y, so inputs and targets cannot be identified.")
