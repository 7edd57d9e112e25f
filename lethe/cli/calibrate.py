"""What `lethe calibrate` prints: the policy, how it was found, and how to use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.core.words import number
from lethe.results.policy import plain

if TYPE_CHECKING:
    from lethe.work.calibrate import Found
    from lethe.work.request import Request


def told(found: Found, request: Request, output: Path, as_json: bool) -> str:
    """The policy in words, or why there is none."""
    policy = found.policy
    if as_json:
        return json.dumps({"policy": None if policy is None else plain(policy), "blind": found.blind,
                           "tried": [one.model_dump() for one in found.tried]})
    tried = [f"    {one.method}: {one.passed} of {one.requests}, at {number(one.cost)} of a retraining" for one in found.tried]
    lines = [f"To choose the method, on {max(one.requests for one in found.tried)} of {found.draws} drawn requests:", *tried]
    if policy is None:
        blind = f" On {found.blind} no test could have told." if found.blind else ""
        return "\n".join([*lines, f"No policy: no method was {request.until} within {number(request.within)} of a retraining."
                                  f"{blind}", "Allow more (--within), or train again: lethe run REQUEST method=retrain"])
    share = (f"{policy.passed} of {policy.requests} passed (exact 95 % interval of the share: {number(policy.low)} to "
             f"{number(policy.high)})")
    blind = f"; on {policy.blind} more no test could have told" if policy.blind else ""
    return "\n".join([
        *lines, f"Policy {policy.id}: {policy.method}, at {number(policy.cost)} of a retraining.",
        f"On other drawn requests of {policy.smallest} to {policy.largest} records {share}{blind}.", "It holds no longer when:",
        *[f"    {one}" for one in policy.expires], "", f"Policy:  {output}", "Run by it:",
        f"    lethe run REQUEST --policy {output}"])
