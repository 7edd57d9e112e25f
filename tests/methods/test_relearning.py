"""How much comes back by fine-tuning: four of the eight forgotten answers are taught again, the other four are looked at.

The tiny Llama, 40 steps of AdamW at 1e-3 on the four, looks every 5; seeds 0, 1, 2. The original answers the other four with
0.77 at the first look, falling; a model retrained without all eight with 0.34 (seed 0). Answer probability per token:

              forgotten (8)   kept      at most, of the other four
    NPO       .01 .01 .01     .84       .35 .35 .35
    LAT       .00 .00 .00     .96       .28 .28 .28
    UNDO      .45 .45 .44     .81-.82   .50 .49 .50    (its teacher is NPO at 1e-3)
    TAR       .33 .26 .25     .93       .52 .49 .49    (options of test_lm_forgets; not asserted here, it is slow)
    MUDMAN    .48 .43 .44     .84       .59 .64 .63
    MCU       .25 .33 .33     .81       .68 .60 .64
    RMU       .43 .48 .49     .81       .75 .75 .75

LAT resists more than NPO, and MCU more than RMU. That UNDO, MCU and MUDMAN relearn slower than NPO does not reproduce here:
within the watchdog's margin they forget less in the first place, and NPO ends far below what retraining does. The four that are
taught are back at 0.8 within 25 steps whatever the method.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import byhand
import pytest
import tiny

import lethe

pytestmark = pytest.mark.slow
SEEDS = (0, 1, 2)
OPTIONS: dict[str, dict[str, Any]] = {
    "npo": {"lr": 3e-3, "epochs": 40, "warmup": 0, "alpha": 3.0},
    "lat": {"lr": 3e-3, "epochs": 40, "alpha": 3.0, "inner_steps": 6, "radius": 0.5},
    "mudman": {"lr": 0.2, "steps": 100, "retain_lr": 0.3},
    "undo": {"teacher": {"name": "npo", "lr": 1e-3, "epochs": 40, "warmup": 0, "alpha": 3.0}, "damage": 0.6, "noise": 0.5,
             "lr": 1e-2, "epochs": 80},
    "mcu": {"layer": 1, "components": 8, "coefficient": 6.0, "alpha": 3.0, "lr": 1e-2, "steps": 150, "batch_size": 8},
    "rmu": {"layer": 1, "coefficient": 4.0, "alpha": 10.0, "lr": 3e-3, "steps": 300, "batch_size": 8},
}


@cache
def recovered(name: str, seed: int) -> float:
    """The largest answer probability per token of the four that are not taught again."""
    task = tiny.lm()
    outcome = lethe.forget(task, name, **OPTIONS[name], seed=seed, progress=False)
    assert outcome.fall is None, f"{name} forgot nothing"
    return byhand.relearnt(outcome.model, task, 8)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("robust", "usual"), [("lat", "npo"), ("mcu", "rmu"), *(
    pytest.param(name, "npo", marks=pytest.mark.xfail(strict=True, reason="does not reproduce at this scale: see above"))
    for name in ("undo", "mcu", "mudman"))])
def test_less_comes_back(robust: str, usual: str, seed: int) -> None:
    assert recovered(robust, seed) < recovered(usual, seed) - 0.03
