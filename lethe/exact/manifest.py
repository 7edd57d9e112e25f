"""Manifest of an exactly unlearnable model: which record went into which part, and which parts may still be used.

Records are named by a salted
hash of their id. The salt follows from the seed beside them, so whoever holds the file can test a guess: it hides names, but
keeps no secret. A manifest is never changed on disk: a deletion writes a new version in a new folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lethe.core.config import digest
from lethe.core.files import file_hash, write_json
from lethe.core.seeds import derive
from lethe.errors import CheckpointCorrupted, DataError, ModelError, StorageError
from lethe.exact.slicing import longest

FILE = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What a model was made of.

    config     options of the method that trained it; seed: of all its random draws
    records    record key -> (shard, slice); `sequences` are those in which each shard was trained on its slices
    deleted    keys of records that were deleted from this model or from a version before it
    hit        per shard: slices out of which records were deleted since the shard was trained
    details    what else the method must find again: recipe, name of the head, what each stage adapts
    files      name -> SHA-256 of the tensors' files
    """

    method: str
    config: dict[str, Any]
    seed: int
    records: dict[str, list[int]]
    sequences: list[list[int]]
    hit: list[list[int]]
    deleted: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def key(self, record: object) -> str:
        """The name of a record in this manifest."""
        return hashlib.blake2b(str(record).encode(), digest_size=16, salt=self._salt).hexdigest()

    @cached_property
    def _salt(self) -> bytes:
        return derive(self.seed, "salt").to_bytes(8, "little")

    def position(self, record: object, sequence: int) -> int:
        """The place of the record's slice in a sequence of its shard: stages from there on have seen it."""
        return self.sequences[sequence].index(self.records[self.key(record)][1])

    def require_deletable(self, ids: Sequence[object]) -> None:
        """DataError when a record was deleted before or is unknown. Nothing has been changed then."""
        gone = set(self.deleted)
        twice = [one for one in ids if self.key(one) in gone]
        if twice:
            raise DataError(f"{len(twice)} of {len(ids)} records were deleted from this model before (first: {twice[0]}), so "
                            "nothing was changed. Take them out of the request and out of the data.")
        unknown = [one for one in ids if self.key(one) not in self.records]
        if unknown:
            raise DataError(f"{len(unknown)} of {len(ids)} records are not among the {len(self.records)} that this model was "
                            f"trained on (first: {unknown[0]}), so nothing was deleted. Check the ids, or the model's folder.")

    def require_retained(self, forgotten: Iterable[object], retained: Sequence[object]) -> None:
        """DataError unless the retained records are all that the manifest knows beside the forgotten ones."""
        given = {self.key(one): one for one in retained}
        left = set(self.records) - {self.key(one) for one in forgotten}
        back = [one for key, one in given.items() if key in set(self.deleted)]
        if back:
            raise DataError(f"the retained data hold {len(back)} records that were deleted before (first: {back[0]}), so they "
                            "could come back when a shard is retrained; nothing was changed. Remove them from the data.")
        if left != set(given):
            raise DataError(f"the retained data and the manifest differ: {len(left - set(given))} records of the model are "
                            f"missing and {len(set(given) - left)} are new, so the model would not be the one of these data; "
                            "nothing was changed. Provide the records it was trained on.")

    def without(self, ids: Sequence[object]) -> Manifest:
        """The manifest after a deletion: one batch, whatever its size."""
        self.require_deletable(ids)
        keys = [self.key(one) for one in ids]
        hit = [set(slices) for slices in self.hit]
        for key in keys:
            shard, one = self.records[key]
            hit[shard].add(one)
        gone = set(keys)
        return replace(self, records={key: where for key, where in self.records.items() if key not in gone},
                       deleted=sorted({*self.deleted, *keys}), hit=[sorted(slices) for slices in hit], files={})

    def retrained(self, shards: Iterable[int]) -> Manifest:
        """The manifest after these shards were trained again on what they still hold."""
        anew = set(shards)
        return replace(self, hit=[[] if shard in anew else slices for shard, slices in enumerate(self.hit)], files={})

    def surviving(self, shard: int) -> tuple[int, int]:
        """(sequence, number of stages) of the shard that no deleted record has touched."""
        return longest(self.sequences, self.hit[shard])

    def write(self, folder: Path, files: Sequence[str]) -> Manifest:
        """Write it into a folder that holds these files, with their hashes."""
        full = replace(self, files={name: file_hash(folder / name) for name in files})
        content = {"version": VERSION, **asdict(full)}
        write_json(folder / FILE, {**content, "digest": digest(content)})
        return full


def read(folder: Path, method: str) -> Manifest:
    """The manifest of a folder, checked: its own digest, its method, and the hash of every file that it names."""
    path = folder / FILE
    if not path.exists():
        raise ModelError(f"{folder} holds no {FILE}, so it is no model that {method} can delete from; nothing was changed. "
                         f"Train one: lethe train REQUEST --exact {method}.")
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in content.items() if key != "digest"}
        sound = content["digest"] == digest(kept)
        sound = kept.pop("version") == VERSION and sound
        made = Manifest(**kept)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointCorrupted(f"{path} cannot be read ({type(error).__name__}: {error}); nothing was changed. Restore "
                                  "the folder as it was written.") from None
    if not sound:
        raise CheckpointCorrupted(f"{path} was changed after it was written, or by another version of Lethe, so it may name the "
                                  "wrong parts; nothing was deleted. Restore the folder as it was written.")
    if made.method != method:
        raise ModelError(f"{folder} was trained by {made.method}, not by {method}; nothing was changed. Set method: "
                         f"{made.method}.")
    for name, wanted in made.files.items():
        if not (folder / name).exists():
            raise StorageError(f"{folder / name} is missing, so the model is incomplete; nothing was deleted. Restore the "
                               "folder as it was written.")
        if file_hash(folder / name) != wanted:
            raise CheckpointCorrupted(f"{folder / name} is not the file that the manifest names (hashes differ), so it may have "
                                      "seen other records; nothing was deleted. Restore the folder as it was written.")
    return made
