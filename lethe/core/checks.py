"""Checks of a new task, before any work starts: finite weights and columns, splits that share no examples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lethe.core.modules import require_finite
from lethe.core.split import Split
from lethe.errors import NotFinite, SplitsOverlap

APART = (("forget", "holdout"), ("forget", "retain"), ("retain", "holdout"), ("forget", "test"), ("retain", "test"))


def check(original: nn.Module, splits: Mapping[str, Split], distinct: bool) -> None:
    """NotFinite, EmptySplit or SplitsOverlap.

    distinct  whether two equal examples mean that data leaked between splits
    """
    require_finite(original, "the original model")
    for role, split in splits.items():
        remedy = "Check the forget selection." if role in ("forget", "retain") else f"Leave {role} out or fill it."
        split.require_examples(remedy)
        for key in split.columns:
            if not split.pending(key):
                _require_finite_column(role, split, key)
    owners = {role: {str(i) for i in split.ids} for role, split in splits.items()}
    for left, right in APART:
        shared = owners.get(left, set()) & owners.get(right, set())
        if shared:
            some = ", ".join(sorted(shared)[:3])
            raise SplitsOverlap(f"{left} and {right} share {len(shared)} examples (ids {some}), so the audit would call "
                                "seen data unseen. Remove them from one of the two.")
    if distinct and {"forget", "holdout"} <= splits.keys():
        equal = set(splits["forget"].contents()) & set(splits["holdout"].contents())
        if equal:
            raise SplitsOverlap(f"{len(equal)} examples stand in forget and in holdout with equal content, so the "
                                "audit would call seen data unseen. Remove the duplicates from holdout.")


def _require_finite_column(role: str, split: Split, key: str) -> None:
    bad: list[int] = []
    for start, rows in split.pieces(key):
        if rows.is_floating_point() and not torch.isfinite(rows).all():
            odd = ~torch.isfinite(rows)
            bad += (start + (odd.flatten(1).any(1) if odd.dim() > 1 else odd).nonzero().flatten()).tolist()
    if bad:
        raise NotFinite(f"column {key!r} of {role!r} has NaN or infinity in {len(bad)} examples (first: "
                        f"id {split.ids[bad[0]]}), so losses would be NaN. Remove or impute them.")
