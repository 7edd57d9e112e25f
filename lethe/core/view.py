"""Holdout in two fixed halves: what a method may learn from, and what an audit may still call unseen.

The half of a record follows from the digest of its id, so it is the same in every run, method and order of the data.
"""

from __future__ import annotations

import hashlib

from lethe.core.split import Split


def reserved(holdout: Split) -> Split:
    """The half that is a method's reference set: records with an even digest of their id."""
    return _half(holdout, 0, "reference")


def audited(holdout: Split) -> Split:
    """The other half: what a membership audit may take for its non-members."""
    return _half(holdout, 1, "holdout")


def _half(holdout: Split, which: int, name: str) -> Split:
    digests = [hashlib.blake2b(str(i).encode(), digest_size=1).digest()[0] % 2 for i in holdout.ids]
    return holdout.subset([place for place, digest in enumerate(digests) if digest == which], name)
