"""A policy keeps its word: of twenty later requests such a share passes as its interval says.

    python tests/work/test_policy_holds.py FOLDER     prints the numbers
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lethe.results.policy import Policy
from lethe.work.calibrate import calibrate
from lethe.work.climb import answers_lack
from lethe.work.execute import carry_out
from lethe.work.job import Climb
from lethe.work.options import Options
from lethe.work.request import Request, parse

LATER = 20
AUDIT = {"depth": "quick", "references": 6, "shadows": 0, "strategy": "serial", "audits": ["scores", "divergence", "threshold"]}


def request(folder: Path, forget: dict[str, int], *asked: str) -> Request:
    """Digits of which a tenth has wrong labels, learned by heart; some records are to be forgotten."""
    return parse({
        "family": "classification", "model": {"zoo": "mlp", "options": {"inputs": 64, "hidden": [64], "classes": 10}},
        "data": {"kind": "digits", "holdout": 0.35, "limit": 900, "poison": {"kind": "labels", "count": 60}},
        "recipe": {"epochs": 40, "lr": 5e-3, "batch_size": 64}, "forget": forget, "method": "finetune", "audit": AUDIT,
        "output": str(folder / "runs")}, asked)


def later(folder: Path, policy: Policy, file: Path) -> list[bool | None]:
    """Whether each of twenty requests that nobody drew passes by the policy; None where no test could have told."""
    found: list[bool | None] = []
    for seed in range(LATER):
        count = 40 + 2 * seed
        asked = request(folder, {"count": count, "seed": 1000 + seed}, f"policy={file}")
        report = carry_out(asked, Options(page=False))
        assert report is not None
        case = report.results.scenarios[0]
        assert case.policy == policy
        rows = {row.role: row for row in case.subjects}
        control = rows["retrained"].answers
        assert control is not None
        blind, lacks = answers_lack(Climb(policy.until, 0.5), rows["method"], control)
        found.append(None if blind else not lacks)
    return found


def held(folder: Path) -> tuple[Policy, list[bool | None]]:
    """A policy calibrated on 16 requests, and what became of twenty later ones."""
    file = folder / "policy.json"
    policy = calibrate(request(folder, {"count": 58}, "until=forgotten", "within=0.35"), Options(), 16, file).policy
    assert policy is not None
    return policy, later(folder, policy, file)


@pytest.mark.slow
def test_of_later_requests_such_a_share_passes_as_the_policy_says(tmp_path: Path) -> None:
    policy, found = held(tmp_path)
    told = [one for one in found if one is not None]
    assert len(told) >= LATER / 2, "the tests can tell"
    assert (policy.low or 0.0) <= sum(told) / len(told) <= (policy.high or 0.0), (policy.told, found)


if __name__ == "__main__":
    kept, ends = held(Path(sys.argv[1]))
    print(kept.told, "\n", kept.tried, "\nlater:", ends, flush=True)
