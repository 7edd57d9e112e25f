"""Sliced: a model that was trained in shards, slices and stages, with the manifest that records what each stage has read.

A folder of it holds manifest.json, base.safetensors (where every shard starts), stages/*.safetensors (one file per shard and
sequence) and the family's own model files. It is written whole or not at all, and never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from lethe.core.config import plain
from lethe.core.modules import state_fingerprint
from lethe.core.outcome import Outcome
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.core.training import TRUSTED
from lethe.errors import CheckpointCorrupted, ModelError, RequestError
from lethe.exact import manifest
from lethe.exact.ensemble import Ensemble
from lethe.exact.manifest import Manifest
from lethe.exact.slicing import place, prefix
from lethe.train.checkpoint import load_tensors, save_tensors
from lethe.train.loop import Loop, Term

State = dict[str, Tensor]
Stages = dict[tuple[int, int, int], State]   # (shard, sequence, stage from 1) -> tensors
BASE = "base.safetensors"
ABOUT_A_DELETION = ("trained", "retrain_dead", "public_base")   # options that do not affect the training


class InParts(Protocol):
    """A model in parts that can be written as a folder."""

    @property
    def manifest(self) -> Manifest:
        """What it was made of, and how."""
        ...

    def save(self, folder: Path, model: nn.Module, write: Callable[[nn.Module, Path], None]) -> None:
        """Write all of it into an empty folder; `write` puts the served model there."""


@dataclass(frozen=True)
class Sliced:
    """base: state dict where every shard starts, empty where that is a model of its own; stages: the tensors after each stage."""

    manifest: Manifest
    base: State
    stages: Stages

    def sound(self, after: Manifest) -> Sliced:
        """Under another manifest, without the stages that have read a slice that is hit there."""
        kept = {(k, b, t): state for (k, b, t), state in self.stages.items() if t <= prefix(after.sequences[b], after.hit[k])}
        return Sliced(after, self.base, kept)

    def save(self, folder: Path, model: nn.Module, write: Callable[[nn.Module, Path], None]) -> None:
        """Write all of it into an empty folder; `write` puts the served model there."""
        if self.base:
            save_tensors(folder / BASE, {f"base/{name}": value for name, value in self.base.items()}, {})
        for k, b in sorted({(k, b) for k, b, _ in self.stages}):
            mine = {f"stage-{t}/{name}": value for (shard, sequence, t), state in self.stages.items()
                    if (shard, sequence) == (k, b) for name, value in state.items()}
            save_tensors(folder / "stages" / f"shard-{k}-sequence-{b}.safetensors", mine, {"shard": k, "sequence": b})
        write(model, folder)
        whole = replace(self.manifest, details={**self.manifest.details, "model": state_fingerprint(model)})
        whole.write(folder, sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.safetensors")))


def require_deletable(folder: Path, method: str, task: Task) -> Manifest:
    """Raise the errors of a deletion that can be known without loading the stages, before any work; the folder's manifest."""
    known, ids = described(folder, method, task), task.forget.ids.tolist()
    known.require_deletable(ids)
    if task.has("retain"):
        known.require_retained(ids, task.retain.ids.tolist())
    return known


def described(folder: Path, method: str, task: Task) -> Manifest:
    """The manifest of a folder, after every check: itself, the files, and that it is of the model that the task's original is."""
    found = manifest.read(folder, method)
    if state_fingerprint(task.original) != found.details["model"]:
        raise ModelError(f"the model of the request is not the one that {folder} describes (weights differ), so its parts do "
                         f"not belong to it; nothing was deleted. Set model.weights={folder / 'model.safetensors'}.")
    return found


def opened(folder: Path, method: str, task: Task) -> Sliced:
    """The model in a folder, after every check."""
    found = described(folder, method, task)
    held = load_tensors(folder / BASE)[0] if (folder / BASE).exists() else {}
    base = {name.removeprefix("base/"): value for name, value in held.items()}
    stages: Stages = {}
    for path in sorted((folder / "stages").glob("*.safetensors")):
        tensors, about = load_tensors(path)
        if path.relative_to(folder).as_posix() not in found.files:
            raise CheckpointCorrupted(f"{path} is not named by the manifest, so what it has read is unknown; nothing was "
                                      "deleted. Restore the folder as it was written.")
        for name, value in tensors.items():
            stage, _, rest = name.partition("/")
            at = (about["shard"], about["sequence"], int(stage.removeprefix("stage-")))
            stages.setdefault(at, {})[rest] = value
    return Sliced(found, base, stages)


def of_training(cfg: Any) -> dict[str, Any]:
    """The options that determine a training: all but those that are about a deletion."""
    return {key: value for key, value in plain(cfg).items() if key not in ABOUT_A_DELETION}


def planned(method: str, config: Mapping[str, Any], records: Split, sequences: list[list[int]], seed: int, details: dict[str, Any]
            ) -> Manifest:
    """The manifest of a model that is to be trained: every record by the hash of what `config["by"]` names, so that records
    with an equal value share a slice, and no record's place depends on another record."""
    shards, slices = config["shards"], config.get("slices", 1)
    empty = Manifest(method, dict(config), seed, {}, sequences, [[] for _ in range(shards)], details=details)
    by = config["by"]
    values = [digest.hex() for digest in records.contents(16)] if by == "content" else records.column(by)
    places = {empty.key(one): list(place(str(value), shards, slices, seed))
              for one, value in zip(records.ids, values, strict=True)}
    if bare := shards - len({shard for shard, _ in places.values()}):
        names = set(map(str, values))
        most = next(m for m in range(shards - 1, 0, -1) if len({place(one, m, slices, seed)[0] for one in names}) == m)
        raise RequestError(f"{len(records)} records with {len(names)} values of {by} leave {bare} of {shards} shards empty: "
                           "the hash of its value says where a record is, and an empty shard would learn nothing; nothing was "
                           f"started. Write method.shards={most}, which leaves none empty, or less.")
    return replace(empty, records=places)


def parts(records: Split, known: Manifest) -> dict[tuple[int, int], list[int]]:
    """(shard, slice) -> positions in `records`, ordered by key: the order of the data does not matter."""
    found: dict[tuple[int, int], list[int]] = {}
    for key, i in sorted((known.key(one), i) for i, one in enumerate(records.ids)):
        if key in known.records:
            shard, one = known.records[key]
            found.setdefault((shard, one), []).append(i)
    return found


def union(records: Split, where: Mapping[tuple[int, int], list[int]], shard: int, slices: Iterable[int]) -> Split | None:
    """The records of some slices of a shard, slice by slice; None when there are none."""
    chosen = [i for one in sorted(slices) for i in where.get((shard, one), [])]
    return records.subset(chosen, f"shard {shard}") if chosen else None


def agreed(cfg: Any, known: Manifest) -> Any:
    """`cfg` with the options that the model was trained with; RequestError when the request sets others."""
    asked = plain(cfg)
    usual = plain(type(cfg)())
    for name, value in known.config.items():
        if asked[name] not in (value, usual[name]):
            raise RequestError(f"method.{name} = {asked[name]!r}, but the model was trained with {value!r}, which a deletion "
                               "cannot change; nothing was started. Leave it out, or train anew: lethe train.")
    return replace(cfg, **known.config)


def train_stage(loop: Loop, task: Task, model: nn.Module, split: Split, seed: int, purpose: tuple[object, ...], phase: str,
                where: Any = None, recipe: Recipe | None = None, **options: Any) -> nn.Module:
    """Train what `where` names on `split`, as a run of its own: its draws depend on (seed, purpose) and on nothing before it.

    loop   of the whole method: it lends settings, modifiers and folder, and is charged for the work
    recipe  how the family trains; without one, its `nll` is minimised with `options`
    phase  training or retraining: a killed run goes on in a folder named by it and by the purpose
    """
    if loop.settings.max_steps or loop.settings.max_examples or loop.settings.max_minutes:
        raise RequestError("settings.max_steps, max_examples or max_minutes would end the training of a shard early, and not at "
                           "the same step when it is repeated; nothing was trained. Leave them out, or set fewer epochs.")
    name = "-".join(str(part) for part in (phase, *purpose))
    own = Loop(loop.task, replace(loop.settings, seed=derive(seed, *purpose)), loop.modifiers,
               folder=loop.folder / name if loop.folder else None, listener=loop.listener, title=name, stop=loop.stop)
    placed = own.start(model, where=where)
    if recipe is not None:
        task.train(placed, split, recipe, own)
    else:
        own.minimise(placed, {"train": Term(split, task.nll)}, **options)
    loop.cost.steps += own.cost.steps
    loop.cost.examples += own.cost.examples
    return model


def deleted(state: Sliced, ids: Sequence[object], retained: Split | None, train: Callable[[Sliced, int, Split], None]
            ) -> tuple[Sliced, list[int]]:
    """(what is left without these records, the dead shards that were trained again).

    train  puts all stages of a shard into a state, from the retained records; without these dead shards stay dead
    """
    after = state.manifest.without(ids)
    left = state.sound(after)
    holding = {shard for shard, _ in after.records.values()}
    dead = [shard for shard in sorted(holding) if not after.surviving(shard)[1]]
    if not dead or retained is None:
        return left, []
    left = Sliced(after.retrained(dead), left.base, left.stages)
    for shard in dead:
        train(left, shard, retained)
    return left, dead


def silence(known: Manifest, loop: Loop) -> int:
    """How many shards are out of service; a reader is told."""
    silent = sum(not known.surviving(shard)[1] for shard in range(len(known.hit)))
    if silent:
        loop.notes.append(f"{silent} of {len(known.hit)} shards are out of service until they are trained again")
    return silent


def state_of(model: nn.Module) -> State:
    """A copy of the state dict on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def single(task: Task) -> nn.Module:
    """One model of the architecture of the task's ensemble."""
    if not isinstance(task.original, Ensemble):
        raise ModelError(f"the model of the request is a {type(task.original).__name__}, not the ensemble that `lethe train` "
                         "wrote; nothing was deleted. Use the request.yaml in its folder.")
    return task.original.single()


def outcome_of(loop: Loop, left: InParts, model: nn.Module, folder: str, kind: str = "stages") -> Outcome:
    """The outcome: the served model, exported as a folder from which the next deletion can be made; kind: of its parts."""
    if folder:
        loop.notes.append(f"{folder} still holds {kind} that have read the deleted records: delete it once this version serves")
    outcome = loop.finish(model)
    outcome.trained = dict(left.manifest.config)

    def export(made: Outcome, place: Path) -> None:
        assert made.task is not None
        left.save(place, made.model, made.task.save_model)

    outcome.export = export
    return outcome


def guaranteed(known: Manifest, basis: str, public_base: bool, numbers: Mapping[str, int]) -> dict[str, Any]:
    """What the certificate may claim: exact, unless the shards started from weights that may have seen the records."""
    if known.details["given"] and not public_base:
        return {"level": "none", "void": "Not exact: the shards start from given weights, which may have seen the records "
                                         "(method.public_base=true says that they have not).", **numbers}
    seen = ["The given weights where the shards start never saw the records: the requester says so."] * known.details["given"]
    seen += [TRUSTED] * bool(known.details.get("recipe", {}).get("code"))
    return {"level": "exact", "basis": basis, **numbers,
            "assumptions": ["The manifest tells what each stage has read; it was written when the stages were trained.",
                            "A record's shard and slice follow from its own key, not from other records.", *seen]}
