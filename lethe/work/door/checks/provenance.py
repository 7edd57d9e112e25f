"""Where unseen data come from: a share of the training data is not unseen by weights that were trained elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from lethe.core.families import provided
from lethe.work.door.door import Finding
from lethe.work.open import Plan

STAGE = 0


def check(plan: Plan) -> Iterator[Finding]:
    """A share as holdout or test beside weights is an error."""
    sections = plan.job.opening.sections
    shares = {name: sections.data[name] for name in ("holdout", "test") if isinstance(sections.data.get(name), float)}
    weights = sections.model.get("weights") or sections.model.get("start") or sections.model.get("folder")
    unseen = [name for name in ("holdout", "test") if name in plan.opened.splits]
    if shares and weights:
        for name, share in shares.items():
            harm = "what is forgotten would look like it from the start" if name == "holdout" else "accuracy on it says nothing"
            yield Finding(
                "error", f"data.{name} = {share:g} takes that share of the data that {weights} was trained on, so it is not "
                f"unseen: {harm}, and records to forget can fall into it.",
                f"Name data that the model has not seen ({name}: unseen_pictures/, {name}: unseen.npz"
                f"{', holdout: test' if name == 'holdout' else ''}), or leave data.{name} out.")
    elif not unseen and {"labels", "targets", "width"} & provided()[plan.job.opening.family]:
        yield Finding("warn", "There are no unseen data (holdout, test), so nobody can tell whether the model still generalises, "
                      "and membership cannot be tested.", "Provide data.holdout." if weights else "Set data.holdout: 0.2.")
    elif unseen:
        yield Finding("ok", f"Unseen data: {', '.join(f'{name} {len(plan.opened.splits[name])}' for name in unseen)}.")
