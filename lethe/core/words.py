"""How numbers and names of metrics are written wherever a person reads them. No torch."""

from __future__ import annotations

import math

SHORT = {   # words of metric names that are abbreviations
    "ain": "AIN", "auc": "AUC", "fid": "FID", "fpr": "FPR", "js": "JS", "kl": "KL", "klom": "KLoM", "lira": "LiRA",
    "mia": "MIA", "mu": "MU", "nll": "NLL", "rmia": "RMIA", "rouge": "ROUGE", "tofu": "TOFU", "tpr": "TPR", "u": "U",
}


def number(value: float | str | None) -> str:
    """Three significant digits where they fit, a true minus sign, '–' for what is absent."""
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return "–" if value is None else str(value)
    size = abs(value)
    if isinstance(value, int) or size >= 1000:
        text = f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    elif size == 0:
        text = "0"
    elif size < 0.001:
        text = f"{value:.1e}"
    else:
        text = f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"
    return text.replace("-", "−")


def limits(low: float | None, high: float | None, floor: float | None, ceiling: float | None) -> str:
    """A band as a goal: '0.3 to 0.5'; 'at most 0.5' where it begins at the smallest possible value, 'at least 0.3' likewise."""
    open_below = low is None or (floor is not None and low <= floor)
    open_above = high is None or (ceiling is not None and high >= ceiling)
    if open_below != open_above:
        return f"at most {number(high)}" if open_below else f"at least {number(low)}"
    ends = [end if end is None or bound is None else pick(end, bound)
            for end, bound, pick in ((low, floor, max), (high, ceiling, min))]
    return "" if None in ends else " to ".join(map(number, ends))


def spaced(name: str) -> str:
    """`forget_accuracy` -> 'forget accuracy', `mia_auc` -> 'MIA AUC'."""
    return " ".join(SHORT.get(word, word) for word in str(name).split("_"))


def heading(name: str) -> str:
    """The same as the beginning of a sentence."""
    first, _, rest = spaced(name).partition(" ")
    return f"{first if first in SHORT.values() else first[:1].upper() + first[1:]} {rest}".strip()
