"""Write what `lethe run --until` came to on the presets: measured/until/presets.json, and docs/until.md from it.

    lethe run presets/NAME.yaml --until forgotten --within 0.3 seed=S output=RUNS/forgotten/NAME/S --no-page    for each
    python tools/until.py [RUNS [OLD=NEW …]]     without RUNS: the page alone; NEW: the revision of main that runs of OLD are of

Where a preset is refused, the file `stderr.txt` of its seed says why. `tests/test_readme.py` compares page and numbers.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lethe.core.words import number

ROOT = Path(__file__).resolve().parents[1]
NUMBERS, PAGE = ROOT / "measured" / "until" / "presets.json", ROOT / "docs" / "until.md"
HEAD = """# What `lethe run --until` comes to on the presets

Rebuilt by `python tools/until.py RUNS`, which says how the runs are made; by hand nothing is edited here.
Every row is one scenario of a preset, run as a user runs it: the preset's own recipe and audits, in place of its methods a search
within a budget. What is delivered was judged on forget and unseen data that the search did not see; where it is not as requested
there, nothing is delivered, and the last column says what lacks. Cost: of all tries together, failed ones counted, in retrainings
(steps or examples, whichever is more). The retrained models of the yardstick are not counted. `scratch` and `retrain` never read
the forgotten data, so they have forgotten them whatever a test says. Useful: asked for where these data show it of a retrained
model. Presets that do not stand here were not measured.
"""


def rows(runs: Path, renamed: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """One row for every scenario of every run; of a refused one what it said. renamed: revision -> what it is called in main."""
    for place in sorted(runs.glob("*/*/*")):
        until, preset, seed = place.parts[-3:]
        about = {"until": until, "preset": preset, "seed": int(seed)}
        done = sorted(place.glob("*/results.json"))
        if not done and (place / "stderr.txt").exists():
            yield {**about, "scenario": "", "refused": (place / "stderr.txt").read_text("utf-8").strip().splitlines()[-1]}
        found = json.loads(done[-1].read_text("utf-8")) if done else {"scenarios": []}
        for case in found["scenarios"]:
            revision = found["versions"].get("git", "")
            yield {**about, "scenario": case["name"], **_found(case), "commit": renamed.get(revision, revision)}


def _found(case: Mapping[str, Any]) -> dict[str, Any]:
    """What a ladder came to; of the delivered model the three answers on the unseen data."""
    ladder = case["ladder"]
    told = next((row["answers"] for row in case["subjects"] if row["name"] == ladder["delivered"]), {})
    answers = {name: told[name]["answer"] for name in ("forgotten", "useful", "indistinguishable") if name in told}
    tried = [rung["row"] for rung in ladder["rungs"] if rung["cost"] is not None]
    return {"within": ladder["within"], "delivered": ladder["delivered"], **answers, "cost": round(ladder["spent"], 4),
            "tried": tried, "looks": ladder["looks"], "why": ladder["why"].split(": ", 1)[-1].split(". Retraining takes ")[0]}


def page(found: Sequence[Mapping[str, Any]]) -> str:
    """A table for every request, a line for every scenario."""
    lines = [HEAD]
    for until in sorted({row["until"] for row in found}):
        mine = [row for row in found if row["until"] == until]
        within = number(next(row["within"] for row in mine if "within" in row))
        judged = [row for row in mine if "within" in row]
        met = sum(bool(row["delivered"]) for row in judged)
        lines += [f"## `--until {until} --within {within}`", "",
                  f"A model was delivered in {met} of {len(judged)} cases.", "",
                  "| preset | seeds | delivered | by | useful | as retraining | cost | where not |",
                  "|---|---|---|---|---|---|---|---|"]
        for name, scenario in dict.fromkeys((row["preset"], row["scenario"]) for row in mine):
            lines.append(_line([row for row in mine if (row["preset"], row["scenario"]) == (name, scenario)]))
        lines.append("")
    return "\n".join(lines)


def _line(some: Sequence[Mapping[str, Any]]) -> str:
    """One scenario over its seeds."""
    first = some[0]
    name = ": ".join([f"`{first['preset']}`", *([first["scenario"]] if first["scenario"] else [])])
    if "refused" in first:
        return f"| {name} | {len(some)} | refused | – | – | – | – | {_cell(first['refused'].split(': ', 1)[-1])} |"
    by = Counter(f"`{row['delivered']}`" for row in some if row["delivered"])
    costs = [row["cost"] for row in some]
    spread = number(min(costs)) if min(costs) == max(costs) else f"{number(min(costs))} to {number(max(costs))}"
    lacks = Counter(row["why"] for row in some if not row["delivered"])
    return (f"| {name} | {len(some)} | {sum(by.values())} of {len(some)} | "
            f"{_counted(by)} | "
            f"{_replies(some, 'useful')} | {_replies(some, 'indistinguishable')} | {spread} | "
            f"{_cell('; '.join(lacks)) or '–'} |")


def _replies(some: Sequence[Mapping[str, Any]], question: str) -> str:
    """'yes (2), not shown (1)' of what was delivered."""
    return _counted(Counter(row[question] for row in some if row["delivered"] and question in row))


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{one} ({count})" if len(found) > 1 else one for one, count in found.most_common()) or "–"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def main(runs: Path | None = None, *renamed: str) -> None:
    """Write numbers, where runs are named, and page."""
    if runs is not None:
        NUMBERS.parent.mkdir(exist_ok=True)
        found = list(rows(runs, dict(one.split("=", 1) for one in renamed)))
        text = json.dumps({"schema": 2, "name": "until", "rows": found}, indent=1, ensure_ascii=False)
        NUMBERS.write_text(text + "\n", encoding="utf-8")
    PAGE.write_text(page(json.loads(NUMBERS.read_text("utf-8"))["rows"]), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]), *sys.argv[2:])
