"""Equal records in two parts: what is forgotten in one is kept or called unseen in the other."""

from __future__ import annotations

from collections.abc import Iterator

from lethe.work.door.door import Finding
from lethe.work.open import Plan

STAGE = 2


def check(plan: Plan) -> Iterator[Finding]:
    """Training records again in holdout or test; records to forget again among those that stay."""
    if not all(task.distinct for task in plan.tasks.values()):
        return
    splits, told = plan.opened.splits, False
    train = plan.train
    seen = set(train.contents()) if train is not None else set()
    for name in ("holdout", "test"):
        if name in splits and (count := sum(content in seen for content in splits[name].contents())):
            told = True
            yield Finding("warn", f"{count} of {len(splits[name])} records of {name} stand in the training data too, so they are "
                          "not unseen.", "Set data.drop_duplicates: true.")
    for case, parts in plan.splits.items():
        if "retain" not in parts:
            continue
        kept = dict(zip(parts["retain"].contents(), parts["retain"].ids.astype(str), strict=True))
        twins = {str(name): kept[content] for name, content in
                 zip(parts["forget"].ids, parts["forget"].contents(), strict=True) if content in kept}
        if twins:
            told = True
            first, other = next(iter(twins.items()))
            before = f"{case}: " if case else ""
            yield Finding("warn", f"{before}{len(twins)} of {len(parts['forget'])} records to forget have an "
                          f"equal that stays ({first} = {other}): deleting them deletes nothing.", "Forget their equals, too.")
    if not told:
        yield Finding("ok", "No record stands in two parts.")
