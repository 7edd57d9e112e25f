"""Why a method gave no model: in the few words of a table, and in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lethe.core.words import number, spaced
from lethe.report.view import Line
from lethe.report.words import listed
from lethe.results.schema import Fall, Row

SEEN = {"retain": "retained", "holdout": "unseen", "forget": "forgotten"}
CUT = 200   # letters of a reason that a sentence quotes


def briefly(line: Line) -> str:
    """'! ended: −68.8 points', '! nothing changed', '! failed: NeedsUnmet': of the first seed that gave none."""
    return f"! {_briefly(_failed(line)[0])}"


def sentences(lines: Sequence[Line]) -> Iterator[str]:
    """What ended them, those with one reason together, and what to do about it. Defects are told elsewhere."""
    ended = _those(lines, lambda row: row.fall is not None)
    idle = _those(lines, lambda row: row.unchanged and row.fall is None)
    if ended:
        told = listed([f"{line.label} ({_lost(row.fall)})" for line, row in ended if row.fall])
        yield (f"The watchdog ended {told}, and no earlier step was sound: the original was left, nothing is forgotten. Lower "
               "method.lr or method.epochs, or allow more: watchdog.loss (points).")
    if idle:
        yield (f"{listed([line.label for line, _ in idle])} changed nothing: every weight is the original's. Raise what the "
               "method does: lethe describe METHOD lists its options.")
    for line, row in _those(lines, lambda row: row.fall is None and not row.unchanged):
        yield f"{line.label} failed{'' if row.defect else f': {_cut(row.error or row.conclusion.text)}'}".rstrip(".") + "."


def crossed(fall: Fall) -> str:
    """The limit that ended a run: 'accuracy on unseen data 0.64 < 0.91'."""
    if fall.value is None:
        return "weights that are not finite"
    if fall.part == "weights":
        return f"weights {number(fall.value)} times as large as the original's"
    side = "" if fall.floor is None else f" {'<' if fall.value < fall.floor else '>'} {number(fall.floor)}"
    return f"{spaced(fall.metric)} on {SEEN[fall.part]} data {number(fall.value)}{side}"


def ended(fall: Fall) -> str:
    """What became of a run that the watchdog ended, in one sentence without a full stop."""
    kept = f"the model is that of step {fall.kept}" if fall.kept else "the untouched model was returned"
    return f"ended by the watchdog after step {fall.step} ({crossed(fall)}): {kept}"


def _those(lines: Sequence[Line], asked: Callable[[Row], bool]) -> list[tuple[Line, Row]]:
    """The lines whose first seed without a model is one of those, and that seed."""
    return [(line, row) for line in lines for row in _failed(line)[:1] if asked(row)]


def _failed(line: Line) -> list[Row]:
    return [row for row in line.members if row.conclusion.verdict == line.verdict]


def _briefly(row: Row) -> str:
    if row.fall:
        return f"ended: {_lost(row.fall, short=True)}"
    if row.unchanged:
        return "nothing changed"
    kind = (row.error or "").partition(":")[0]
    return f"{'defect' if row.defect else 'failed'}{f': {kind}' if kind.isidentifier() else ''}"


def _lost(fall: Fall, short: bool = False) -> str:
    """'−68.8 points', with what was measured; weights that were not finite; a loss that is too high."""
    if fall.part == "weights":
        return "weights not finite" if fall.value is None else f"weights {number(fall.value)} times as large"
    if fall.part == "forget" or fall.value is None or fall.original is None:
        return f"{fall.metric} {number(fall.value)} > {number(fall.floor)}{'' if short else ' on forgotten data'}"
    points = f"{100 * (fall.value - fall.original):+.1f} points".replace("-", "−")
    return points if short else f"{points} of {fall.metric} on {SEEN[fall.part]} data"


def _cut(text: str) -> str:
    return text if len(text) <= CUT else f"{text[:CUT].rsplit(' ', 1)[0]} …"
