"""What may be touched: the only way to the data of a task, and the account of what was taken.

Holdout comes in two fixed halves: what a method may learn from, and what an audit may still call unseen. The half of a
record follows from the digest of its id, so it is the same in every run, method and order of the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from torch import nn

from lethe.core.modules import copied, differentiable, lent, own, private, state_fingerprint
from lethe.core.parked import released
from lethe.core.split import Split, by_role
from lethe.errors import NeedsUnmet, NotGranted


class Grant:
    """The original and the splits of a task, what of them may be touched, and what was.

    allowed   names that were declared (`retain`, `original`, `forget.entity`); None: everything, for auditors
    taken     roles of the splits that were handed out under a declaration, and `original`
    """

    def __init__(self, original: nn.Module, splits: Mapping[str, Split | None]) -> None:
        self._original = private(original)
        self._splits = by_role(splits)
        self._own = True   # whether the model is the original, not a stand-in
        self._reserved: Split | None = None
        self.allowed: frozenset[str] | None = None
        self.taken: set[str] = set()

    # -- other grants ---------------------------------------------------------------------------------------------

    def limited(self, needs: Iterable[str]) -> Grant:
        """Only these. Of a limited grant: no more than that had, and on its account."""
        asked = frozenset(needs)
        twin = self._twin()
        if self.allowed is None:
            twin.allowed, twin.taken = asked, set()
        else:
            twin.allowed = asked & self.allowed
        return twin

    def replaced(self, original: nn.Module | None, splits: Mapping[str, Split | None]) -> Grant:
        """Another model (None: the same) and other splits; None or an empty one takes a split away. The same account."""
        twin = self._twin()
        if original is not None:
            twin._original = private(original)
        twin._splits = by_role({**self._splits, **{role: split if split else None for role, split in splits.items()}})
        twin._reserved = None
        return twin

    def without_original(self) -> Grant:
        """The model is a stand-in for an original that is not available."""
        twin = self._twin()
        twin._own = False
        return twin

    # -- the gate -------------------------------------------------------------------------------------------------

    def has(self, what: str) -> bool:
        """Whether it is there and may be touched. `forget.entity`: a column of a split."""
        what, _, column = what.partition(".")
        stands = what == "holdout" and what not in self._splits and self.allowed is not None   # a method's holdout is `reference`
        split = self._splits.get("reference" if stands else what)
        present = self._own if what == "original" else split is not None
        inside = not column or (split is not None and (column in split.meta or column in split.columns))
        return present and inside and self.allows(what)

    def allows(self, what: str) -> bool:
        """Whether it was declared."""
        return self.allowed is None or what in self.allowed

    def require(self, what: str) -> None:
        """NotGranted for what was not declared, NeedsUnmet for what is not there."""
        self.require_declared(what)
        if not self.has(what):
            raise NeedsUnmet(missing(what))

    def require_declared(self, what: str) -> None:
        """NotGranted for what was not declared."""
        if not self.allows(what):
            raise NotGranted(f"the method touched {what!r} without declaring it; its result could not be trusted to be "
                             f"independent of it. Add {what!r} to needs=.")

    def take(self, role: str) -> Split:
        """A split, on the account. Under a declaration, holdout is `reference` or its reserved half: audits use the rest."""
        self.require(role)
        if self.allowed is None:
            return self._splits[role]
        self.taken.add(role)
        return self._for_methods() if role == "holdout" else self._splits[role]

    @property
    def splits(self) -> Mapping[str, Split]:
        """The splits that may be touched, by role; each goes through the gate when it is read."""
        return Splits(self)

    def original(self) -> nn.Module:
        """The frozen original; NeedsUnmet where a stand-in replaces it."""
        self.require("original")
        if self.allowed is not None:
            self.taken.add("original")
        return self._original

    def model(self) -> nn.Module:
        """The frozen model, the original or its stand-in."""
        self.require_declared("original")
        return self._original

    def lent(self) -> nn.Module:
        """As `copy`, sharing the storage of every parameter with the model: for a run, which takes those apart that it moves."""
        return lent(self._original)

    def own(self, params: Iterable[nn.Parameter]) -> None:
        """Give these parameters of a model that was `lent` storage of their own."""
        own(params, self._original)

    def copy(self) -> nn.Module:
        """A trainable copy of the model that shares no storage with it: where a run starts, whatever was declared."""
        return differentiable(copied(self._original, trainable=True))

    def roles(self) -> list[str]:
        """Roles of the splits that exist and may be touched."""
        return [role for role in self._splits if self.has(role)]

    @property
    def fingerprint(self) -> dict[str, str]:
        """Fingerprints of the model's weights and of every split."""
        found = {"original": state_fingerprint(self._original), **{key: split.fingerprint for key, split in self._splits.items()}}
        released(self._original)
        return found

    def everything(self) -> tuple[nn.Module, dict[str, Split]]:
        """The model and all splits, off the account: for the task's own checks and copies, never handed out."""
        return self._original, dict(self._splits)

    def _for_methods(self) -> Split:
        if "reference" in self._splits:
            return self._splits["reference"]
        if self._reserved is None:
            self._reserved = reserved(self._splits["holdout"])
        return self._reserved

    def _twin(self) -> Grant:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin


class Splits(Mapping[str, Split]):
    """The splits of a grant by role: names are free, reading one passes the gate and is counted."""

    def __init__(self, grant: Grant) -> None:
        self._grant = grant

    def __getitem__(self, role: str) -> Split:
        if not self._grant.has(role) and self._grant.allows(role):
            raise KeyError(role)
        return self._grant.take(role)

    def __contains__(self, role: object) -> bool:
        return role in self._grant.roles()

    def __iter__(self) -> Iterator[str]:
        return iter(self._grant.roles())

    def __len__(self) -> int:
        return len(self._grant.roles())


def missing(what: str) -> str:
    """Message for something a task does not have."""
    remedy = {
        "retain": "Provide retain data, or choose a method that works without it: lethe methods --without retain.",
        "holdout": "Provide unseen data of the same distribution as holdout.",
        "recipe": "Pass recipe= (how the model was trained), so that it can be retrained.",
        "prompt lists": "Name some beside forget, keep and outside: data.published with kind hub_set.",
        "pictures": "The method lays pictures [n, C, H, W] over each other; choose another for tables or text.",
        "convolutions": "The method turns 2-d convolutions with square kernels over; choose another, e.g. msg or finetune.",
    }.get(what, f"Provide {what}.")
    return f"the task has no {what}, which is needed here, so nothing was started. {remedy}"


def reserved(holdout: Split) -> Split:
    """The half that is a method's reference set: records with an even digest of their id."""
    return _half(holdout, 0, "reference")


def audited(holdout: Split) -> Split:
    """The other half: what a membership audit may take for its non-members."""
    return _half(holdout, 1, "holdout")


def _half(holdout: Split, which: int, name: str) -> Split:
    digests = [hashlib.blake2b(str(i).encode(), digest_size=1).digest()[0] % 2 for i in holdout.ids]
    return holdout.subset(np.flatnonzero(np.array(digests) == which), name)
