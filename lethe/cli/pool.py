"""`lethe pool`: the models that a request reads from its cache, trained ahead, all or a share of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lethe.pools.take import Take
    from lethe.work.options import Options
    from lethe.work.pool import Place
    from lethe.work.request import Request

COLUMNS = ("scenario", "purpose", "member", "state", "file")


def trained(request: Request, options: Options, take: Take, scenario: str | None, what: str, strategy: str, list_only: bool,
            as_json: bool) -> str:
    """Train the share (not with `list_only`), and report the models: as JSON, as a table when listed, else in a line."""
    from lethe.pools.backends import known
    from lethe.work.pool import places, train

    known(strategy)
    found = places(request, options, scenario, what, original=not list_only)
    made = 0 if list_only else train(found, take, strategy, options)
    mine = take.among(found)
    if as_json:
        return json.dumps({"take": f"{take.number}/{take.of}", "trained": made, "members": [place.row() for place in mine]})
    if list_only:
        return table(mine)
    return f"{made} models trained. Share {take.number}/{take.of} has {counted(mine)}"


def table(found: Sequence[Place]) -> str:
    """One line for each member, then how many are in which state."""
    rows = [{key: key for key in COLUMNS}, *({key: str(value) for key, value in place.row().items()} for place in found)]
    widths = {key: max(len(row[key]) for row in rows) for key in COLUMNS}
    return "\n".join([*("  ".join(f"{row[key]:<{widths[key]}}" for key in COLUMNS).strip() for row in rows), counted(found)])


def counted(found: Sequence[Place]) -> str:
    """How many members there are, by state."""
    counts = Counter(place.state for place in found)
    return f"{len(found)} models: " + (", ".join(f"{counts[state]} {state}" for state in sorted(counts)) or "none is needed")
