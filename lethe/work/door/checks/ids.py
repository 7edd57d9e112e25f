"""Records that are to be forgotten by name: each must stand in the training part, spelled as there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from lethe.core.split import Split
from lethe.data.select import nearest_id
from lethe.errors import DataError
from lethe.work.door.door import Finding
from lethe.work.open import Plan

STAGE = 0
SHOWN = 5   # ids that a sentence names


def check(plan: Plan) -> Iterator[Finding]:
    """Unknown ids, with where they do stand or what is spelled most like them."""
    train = plan.opened.splits.get("train")
    if train is None:
        return
    known = {name: set(split.ids.astype(str)) for name, split in plan.opened.splits.items()}
    for case in plan.job.opening.cases:
        asked = case.selection.get("ids") if isinstance(case.selection, Mapping) else None
        if not isinstance(asked, (list, tuple)):
            continue
        wanted = [str(one) for one in asked]
        missing = [one for one in wanted if one not in known["train"]]
        if not missing:
            yield Finding("ok", f"All {len(wanted)} ids of the forget set stand in the training data.")
            continue
        told = []
        for one in missing[:SHOWN]:
            others = [name for name, ids in known.items() if one in ids or f"{name}/{one}" in ids]
            close = nearest_id(one, train)
            told.append(f"{one!r} is in {' and '.join(others)}, which no model should have seen" if others else
                        f"{one!r} is nowhere" + (f" (did you mean {close!r}?)" if close else ""))
        more = f"; and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        remedy = ("Correct forget.ids; a record that stands in a share that was split off for holdout or test is not among those "
                  "that can be forgotten.")
        if column := _column(missing, train):
            remedy = (f"They stand in the column {column!r}, and records are named by another one, or numbered. Let it name "
                      f"them: data.id or data.ids = {column} (lethe describe sources). Or write forget: "
                      f"{{column: {{{column}: […]}}}}.")
        wrong = Finding("error", f"{len(missing)} of {len(wanted)} ids of the forget set are not in the training data: "
                        f"{'; '.join(told)}{more}.", remedy)
        yield replace(wrong, cause=DataError(wrong.words))   # there is nothing to accept: no record is meant


def _column(names: Sequence[str], split: Split) -> str:
    """The further column in which all of these names stand; '' for none."""
    return next((key for key, values in split.meta.items() if names and set(names) <= set(map(str, values))), "")
