"""LoTUS: temperature, targets, and a divergence that does not depend on how many examples there are."""

from __future__ import annotations

import math

import pytest
import torch
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.data.select import Where
from lethe.errors import NeedsUnmet
from lethe.methods.classification.lotus import rf_jsd, soft_cross_entropy, temperature


def test_golden_temperature_and_loss() -> None:
    assert temperature(1.0, 0.5, 2.0) == pytest.approx(math.e) and temperature(0.5, 0.5, 2.0) == 1
    found = soft_cross_entropy(torch.tensor([[0.3, 0.7]]), torch.zeros(1, 2))
    torch.testing.assert_close(found, torch.tensor([math.log(2)]))


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_rf_jsd_is_taken_per_class_whatever_the_number_of_examples(n: int) -> None:
    """(1, 0) against (0, 1) is 1 bit; (1, 0) against (½, ½) is h(¼) − ½·1 = 0.811 − 0.5 = 0.311 bits."""
    sure, other, even = (torch.tensor([p]).repeat(n, 1) for p in ([1.0, 0.0], [0.0, 1.0], [0.5, 0.5]))
    y = torch.zeros(n, dtype=torch.long)
    assert rf_jsd(sure, y, other, y) == pytest.approx(1)
    assert rf_jsd(sure, y, even, y) == pytest.approx(0.3113, abs=1e-4)
    both = torch.cat([y, y + 1])   # 0 for one class, 1 for the other
    assert rf_jsd(torch.cat([sure, sure]), both, torch.cat([sure, other]), both) == pytest.approx(0.5)


def test_reports_the_divergence_that_needs_no_retraining() -> None:
    outcome = run("lotus", classification(), epochs=2)
    assert outcome.notes[-1].startswith("RF-JSD")


def test_stops_where_the_accuracy_is_that_of_unseen_data() -> None:
    task = classification(Where(index=tuple(range(40))))
    outcome = run("lotus", task, unseen_accuracy=1.0, margin=0.5)   # reached before the first step? accuracy 1 is not below 0.5
    assert not any("stopped" in note for note in outcome.notes)
    still = run("lotus", task, unseen_accuracy=1.0, margin=0.0)   # an original that is not perfect on F stands below already
    with torch.no_grad():
        perfect = bool((task.original(task.forget.columns["x"]).argmax(1) == task.forget.columns["y"]).all())
    assert perfect or state_fingerprint(still.model) == state_fingerprint(task.original)


def test_single_examples_need_unseen_data() -> None:
    task = classification(Where(index=(0, 1, 2)))
    bare = task.replaced(holdout=None)
    with pytest.raises(NeedsUnmet):
        run("lotus", bare)
