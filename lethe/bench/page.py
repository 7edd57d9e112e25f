"""`lethe bench SUITE --page docs/measured.md`: what every method did on every problem of a suite, as one page. No torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lethe.bench.suite import read
from lethe.results import measured
from lethe.results.measured import Measured, Number, Reason

DISTANCES = ("js_forget", "r2_forget")        # from retrained models on what was to be forgotten; the first that is kept
SCORES = ("forget_accuracy", "r2_forget")
WIDE = 7         # problems in one table
NEAR, FAR = 10.0, 50.0   # per cent of the original's distance: most that is left where no test can judge, and where tests can
ENDINGS = {"failed": "Failed", "unchanged": "Returned the original unchanged, and said so",
           "ended": "Ended by the watchdog at the last sound point", "cannot run": "Cannot run there",
           "unsure": "Returned as it ended, and the watchdog said that it cannot tell whether too much was lost"}

TITLE = "What every method does on data that it was not tuned on"

HEAD = """# {title}

Rebuilt by `lethe bench {suite} --workers 16` (measures) and `lethe bench {suite} --page {page}` (writes this page).
Every method ran by its public call with its defaults and the watchdog on, for {seeds} originals of each problem: means over them.
Problems: {problems}.

How to read a cell, for instance **4 % · 0.6**: 4 % of the original's distance to retrained models on the forgotten data is
left (0 %: like a retrained model, 100 %: as far away as the original), and 0.6 points of the score on unseen data were lost
against retrained models (below 0: better than they are). **Bold**: every test of every run says forgotten, at most
{far:.0f} % is left, and no more was lost than the margin; two records are too few to test, there at most {near:.0f} % is
left. † some runs did not end as the method meant: the watchdog returned an earlier model, or nothing changed, or it failed;
the reasons stand below. ‡ the watchdog said of some runs that the unseen data are too few to tell whether more than the margin
was lost. "At least": the lower end of the interval of what was lost, in the mean of the runs. – not for such a task, or not
measured. As retraining: the share of runs that no test tells from retrained models; of retrained models it stands above the
table. Examples or steps: what was trained on, of one retraining, the larger of the two.
"""


@dataclass(frozen=True)
class Cell:
    """One method on one problem. left: per cent of the original's distance; lost: points; time: of a retraining."""

    method: str
    numbers: Mapping[str, Number]
    reasons: tuple[Reason, ...]

    @property
    def left(self) -> float | None:
        for metric in DISTANCES:
            one = self.numbers.get(metric)
            if one is not None:
                if one.mean is None or one.untouched is None or one.retrained is None or one.untouched == one.retrained:
                    return None
                return 100 * abs(one.mean - one.retrained) / abs(one.untouched - one.retrained)
        return None

    @property
    def failed(self) -> bool:
        """Whether no run has a model."""
        return all(one.mean is None for metric, one in self.numbers.items() if metric != "time")

    @property
    def forgotten(self) -> bool:
        """By every test in every run, and near retrained models; where there is no test, nearer."""
        told = self.mean("forgotten") == 1 if "forgotten" in self.numbers else True
        most = FAR if "forgotten" in self.numbers else NEAR
        return told and self.left is not None and self.left <= most and not self.gone

    @property
    def gone(self) -> int:
        """Runs without a model."""
        return max((one.failed for one in self.numbers.values()), default=0)

    @property
    def useful(self) -> bool:
        """Whether no more was lost than the margin."""
        lost, margin = self.mean("points lost"), self.mean("margin")
        return lost is not None and margin is not None and lost <= margin

    @property
    def good(self) -> bool:
        return self.forgotten and self.useful

    @property
    def rank(self) -> tuple[bool, bool, float, str]:
        """Good ones first, the cheapest before the others."""
        return not self.good, self.failed, self.mean("time") or 0.0 if self.good else self.left or 0.0, self.method

    def count(self, fact: str) -> tuple[int, int]:
        """In how many runs a fact holds that is 1 or 0 in each, and of how many, those without a model too; (0, 0): not asked."""
        told = self.numbers.get(fact)
        return (0, 0) if told is None else (round((told.mean or 0.0) * told.seeds), told.seeds + told.failed)

    def mean(self, metric: str) -> float | None:
        return self.numbers[metric].mean if metric in self.numbers else None

    @property
    def short(self) -> str:
        """The cell of the first table."""
        if self.failed:
            return f"{self.reasons[0].kind} †" if self.reasons else "–"
        text = f"{_percent(self.left)} · {fixed(self.mean('points lost'), 1)}"
        return (f"**{text}**" if self.good else text) + (self.marks and f" {self.marks}")

    @property
    def marks(self) -> str:
        """† some runs ended otherwise than the method meant; ‡ of some the watchdog could not tell."""
        kinds = {one.kind for one in self.reasons}
        return "†" * bool(kinds - {"unsure"}) + "‡" * ("unsure" in kinds)


def cells(suite: str, place: Path | None = None) -> dict[str, list[Cell]]:
    """Problem -> what was measured of each method there, good ones first."""
    known = [measured.read(path.stem, place) for path in sorted((place or measured.folder()).glob("*.json"))]
    found = {problem: list(_cells(known, f"{suite}: {problem}")) for problem in read(suite).requests}
    return {problem: sorted(some, key=lambda one: one.rank) for problem, some in found.items() if some}


def measured_page(suite: str, page: Path, place: Path | None = None) -> str:
    """The page as Markdown; it depends on the suite and the files of `measured/` alone."""
    found = cells(suite, place)
    each = {problem: max(one.seeds for cell in some for one in cell.numbers.values()) for problem, some in found.items()}
    seeds = max(each.values(), default=0)
    head = HEAD.format(suite=suite, page=written_as(page), title=read(suite).title or TITLE, seeds=seeds, near=NEAR, far=FAR,
                       problems=", ".join(name + (f" ({n} of them)" if n < seeds else "") for name, n in each.items()))
    return head + _total(found) + _overview(found) + "".join(_problem(problem, some) for problem, some in found.items())


def _cells(known: Iterable[Measured], problem: str) -> Iterable[Cell]:
    for one in known:
        mine = {number.metric: number for number in one.numbers if number.problem == problem}
        if mine:
            yield Cell(one.name, mine, tuple(reason for reason in one.reasons if reason.problem == problem))


def _overview(found: Mapping[str, list[Cell]]) -> str:
    by = {problem: {cell.method: cell for cell in some} for problem, some in found.items()}
    methods = sorted({method for some in by.values() for method in some},
                     key=lambda method: (-sum(some[method].good for some in by.values() if method in some), method))
    parts = [list(by)[start : start + WIDE] for start in range(0, len(by), WIDE)]
    return "".join(as_table(["method", *some], [[f"`{method}`", *(by[problem][method].short if method in by[problem] else "–"
                                                                  for problem in some)] for method in methods]) for some in parts)


def _total(found: Mapping[str, list[Cell]]) -> str:
    """In how many runs of all problems each method forgot, and was like retraining, where that was asked; the most runs first."""
    runs: dict[str, list[Cell]] = defaultdict(list)
    for cell in (cell for some in found.values() for cell in some if "indistinguishable" in cell.numbers):
        runs[cell.method].append(cell)
    def told(method: str, fact: str) -> tuple[int, str]:
        holds, of = (sum(part) for part in zip(*(cell.count(fact) for cell in runs[method]), strict=True))
        return holds, f"{holds} of {of} runs ({_percent(100 * holds / of)})" if of else "–"

    order = sorted(runs, key=lambda method: (-told(method, "indistinguishable")[0], method))
    return as_table(["method", "like retraining in", "forgotten in", "on problems"], [
        [f"`{method}`", told(method, "indistinguishable")[1], told(method, "forgotten")[1], str(len(runs[method]))]
        for method in order]) if order else ""


def as_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, behind an empty line."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def written_as(page: Path) -> str:
    """How the page names its own file: as it was asked for; an absolute path by its name in docs."""
    return f"docs/{page.name}" if page.is_absolute() else page.as_posix()


def _problem(problem: str, some: list[Cell]) -> str:
    score = next((metric for metric in SCORES if any(metric in cell.numbers for cell in some)), SCORES[0])
    control = next((cell.numbers[score] for cell in some if score in cell.numbers), None)
    said = "" if control is None else (f"{score.replace('_', ' ')}: original {fixed(control.untouched, 2)}, retrained "
                                       f"{fixed(control.retrained, 2)}. Time: of one retraining.{_alike(some)}\n")
    costs = any("cost" in cell.numbers for cell in some)
    why = "".join(endings(kind, title, some) for kind, title in ENDINGS.items())
    heads = [score.replace("_", " "), "distance left", "points lost", "forgotten", "as retraining", "within the margin",
             *["examples or steps"] * costs, "time"]
    table = as_table(["method", *heads], [_row(cell, score, costs) for cell in some])
    return f"\n## {problem[0].upper()}{problem[1:]}\n{said}{table}{why}"


def _alike(some: Sequence[Cell]) -> str:
    """In how many runs no test tells a further retrained model from the others."""
    found = next((cell.numbers["indistinguishable"] for cell in some if "indistinguishable" in cell.numbers), None)
    return "" if found is None or found.retrained is None else f" As retraining: retrained {fixed(100 * found.retrained, 0)} %."


def _row(cell: Cell, score: str, costs: bool) -> list[str]:
    spread = cell.numbers["points lost"].sd if "points lost" in cell.numbers else None
    lost = fixed(cell.mean("points lost"), 1) + (f" ± {fixed(spread, 1)}" if spread is not None else "")
    if not cell.useful and (least := cell.mean("lost at least")) is not None:
        lost += f", at least {fixed(least, 1)}"
    return [f"`{cell.method}`{cell.marks and ' ' + cell.marks}", fixed(cell.mean(score), 2), _percent(cell.left), lost,
            _share(cell, "forgotten"), _share(cell, "indistinguishable"), "yes" if cell.useful else "no",
            *[_times(cell.mean("cost"))] * costs, _times(cell.mean("time"))]


def _share(cell: Cell, fact: str) -> str:
    """Of how many runs it holds."""
    share = cell.mean(fact)
    return "not testable" if fact not in cell.numbers else _percent(None if share is None else 100 * share)


def endings(kind: str, title: str, some: Sequence[Cell]) -> str:
    """Who ended so, in how many runs; the first reason in the words of the run."""
    mine = [(cell.method, one) for cell in sorted(some, key=lambda cell: cell.method) for one in cell.reasons if one.kind == kind]
    if not mine:
        return ""
    names = ", ".join(f"`{method}` ({len(one.seeds)})" for method, one in mine)
    return f"\n{title} (runs): {names}. For instance {mine[0][0]}: {_cut(mine[0][1].text)}\n"


def _cut(text: str, length: int = 240) -> str:
    flat = " ".join(text.split()).replace("|", "/")
    return flat if len(flat) <= length else flat[:length].rsplit(" ", 1)[0] + " …"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{fixed(value, 0)} %"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{fixed(value, 2)}×"


def fixed(value: float | None, digits: int) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}".replace("-", "−") if round(value, digits) else f"{0:.{digits}f}"
