"""Words, numbers and signs of the report: what a verdict is called, how a number is written."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from lethe.core.evidence import (
    FAILED,
    INSIDE,
    NO_POWER,
    NO_YARDSTICK,
    NOT_EXAMINED,
    OUTSIDE,
    SHOWN,
    Access,
    Better,
    Depth,
    Ending,
    Side,
    Verdict,
    YardstickKind,
)
from lethe.core.words import number

# verdict -> (sign, word in tables): the sign differs in shape, so that nothing depends on colour
SIGNS: dict[Verdict | Ending, tuple[str, str]] = {
    INSIDE: ("✓", "inside"), OUTSIDE: ("✗", "outside"), NO_POWER: ("○", "no power"),
    NO_YARDSTICK: ("–", "no yardstick"), NOT_EXAMINED: ("?", "not examined"), SHOWN: ("", ""), FAILED: ("!", "failed"),
}
SEVERITY: tuple[Verdict | Ending, ...] = (INSIDE, NO_POWER, NO_YARDSTICK, NOT_EXAMINED, OUTSIDE, FAILED)   # from best to worst

SPOKEN: dict[Ending, str] = {   # of a whole model
    INSIDE: "indistinguishable from retraining", OUTSIDE: "distinguishable from retraining", NO_POWER: "tests had no power",
    NO_YARDSTICK: "nothing to compare with", NOT_EXAMINED: "no test could be carried out", FAILED: "failed",
}
KINDS: dict[YardstickKind, str] = {   # of a yardstick
    "retrained": "Retrained models", "holdout": "A model to which the data are unseen (weaker yardstick)",
    "rashomon": "Models as good as the untouched one (weaker yardstick)",
}
BANDS: dict[YardstickKind, str] = {   # what the band of a figure is
    "retrained": "Grey: the band that decides; one more retrained model lies in the bands of all its tests with a probability of "
                 "95 %. Where it has no end, no value counts against a model on that side.",
    "holdout": "Grey: where a model lies to which the data are unseen (95 %), a weaker yardstick than retrained models.",
    "rashomon": "Grey: where models as good as the untouched one lie (95 %); they know the data, too, so this is no yardstick of "
                "forgetting.",
}
MANY: dict[YardstickKind, str] = {   # what the diamonds of a figure are
    "retrained": "retrained models", "holdout": "values of unseen data", "rashomon": "models like the untouched",
}
DEPTHS: dict[Depth, str] = {   # what a depth cannot see
    "quick": "Depth quick looks at answers, scores and losses once. It does not attack the model: what comes back after a little "
             "training, and single records that only an attack with shadow models finds, are not seen.",
    "standard": "Depth standard adds distances to retrained models, relearning and attacks with a few shadow models. Its attacks "
                "are not tuned to this model, and attacks that need many shadow models and worst cases among single records are "
                "seen roughly or not at all.",
    "deep": "Depth deep runs every audit that Lethe has. Attacks that nobody has published, or with a larger budget than was "
            "given, are not seen.",
}
ACCESS: dict[Access, str] = {   # what the audit had to work with
    "L0": "L0: the new model alone. Nothing shows that the tests would have found the data before.",
    "L1": "L1: the new and the untouched model, nothing trained anew.",
    "L2": "L2: the new and the untouched model, and models trained anew (retrained without the data, or shadow models).",
    "L3": "L3: as L2, and canaries planted in training and then removed by the same procedure.",
}


def watched(labels: Sequence[str]) -> str:
    """That the watchdog read retained data while methods ran that ask for none; '' where it did not."""
    if not labels:
        return ""
    return f"{listed(labels)} saw no retained data; the watchdog did (watchdog: false turns it off)."


DIRECTION: dict[Better, str] = {
    "match": "target: like retrained models", "higher": "higher is better", "lower": "lower is better",
}


def direction(better: Better, retrained: bool) -> str:
    """Which way of a metric is better; retrained: whether there are retrained models to speak of."""
    return DIRECTION[better] if retrained or better != "match" else "target: as without the data"


def sign(verdict: Verdict | Ending, side: Side = "") -> str:
    """'✓ inside', '▲ outside', '▼ outside': above or below the yardstick."""
    mark, word = SIGNS[verdict]
    if verdict == OUTSIDE and side:
        mark = "▲" if side == "+" else "▼"
    return f"{mark} {word}".strip()


def interval(low: float | None, high: float | None) -> str:
    """'0.93 to 0.99', or nothing."""
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def duration(seconds: float | None) -> str:
    """'0.4 s', '3.5 min', '2.1 h'."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{number(float(seconds))} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1] if names else "") if part)


def printable(text: object) -> str:
    """`text` without control characters, which could write over a terminal or break a drawing."""
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "�" for c in str(text))
