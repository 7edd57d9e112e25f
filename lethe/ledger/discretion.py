"""Results without what names forgotten records, as ledger and page may keep them (`lethe.core.discretion`)."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

from lethe.core.discretion import WITHHELD, discreet, in_texts, secrets, without

if TYPE_CHECKING:
    from lethe.results.schema import Results


def withheld(results: Results, ids: Set[str]) -> Results:
    """The results without the values by which the request names records, and without the identifiers `ids` of forgotten ones.

    Samples stay: a page is there to show what a model answers.
    """
    from lethe.results import schema

    words, data = secrets(results.config), schema.plain(results)
    hidden = ids | words
    data |= {"config": discreet(data["config"]), "title": without(data["title"], words),
             "command": without(data["command"], words)}
    for case in data["scenarios"]:
        case["request"] = without(case["request"], words)
        for one in case["not_tested"]:
            one["why"] = without(one["why"], words)
        for row in case["subjects"]:
            row |= {"config": discreet(row["config"]), "error": without(row["error"], words)}
            for item in row["evidence"]:
                item["detail"] = in_texts(item["detail"], lambda text: WITHHELD if text in hidden else text)
    return schema.Results.model_validate(data)
