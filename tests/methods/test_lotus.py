"""LoTUS: temperature, targets, and a divergence that does not depend on how many examples there are."""

from __future__ import annotations

import math

import byhand
import pytest
import torch
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.data.select import Where
from lethe.errors import NeedsUnmet
from lethe.methods.general.lotus import gumbel_softmax, rf_jsd, soft_cross_entropy, temperature


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


@pytest.mark.parametrize("case", ["given", "measured", "whole class"])
def test_a_step_of_two_epochs_by_hand(case: str) -> None:
    task, alpha = byhand.known(byhand.classification(removed=case == "whole class"), 5), 3.0
    if case == "whole class":
        task = byhand.classification(removed=True)
        columns = {**task.forget.columns, "x": task.forget.columns["x"] + 0.3}
        task = task.replaced(task.original, forget=Split(columns, "forget"))
    unseen = task.granted({"holdout"}).holdout.columns
    measured = float((task.original(unseen["x"]).argmax(1) == unseen["y"]).float().mean())
    aim = {"given": 0.4, "measured": measured, "whole class": 0.0}[case]
    x, y = task.forget.columns["x"], task.forget.columns["y"]
    some = task.retain.subset(torch.randperm(12, generator=generator(0, "lotus"))[:6].numpy(), "lotus-retain")
    wanted, taus = task.original, []
    for epoch in range(2):
        accuracy = float((wanted(x).argmax(1) == y).float().mean())
        if epoch and aim == accuracy == 0:
            break
        taus.append(math.exp(alpha * (accuracy - aim)))
        byhand.reseed(0, epoch)
        drawn = []
        for split, name in ((some, "retain"), (task.forget, "forget")):
            rows = byhand.order(split, name, epoch)
            z = task.original(split.columns["x"][rows]).detach()
            drawn.append((split.columns["x"][rows], z - torch.empty_like(z).exponential_().log()))
        (kept, noisy), (gone, blurred) = drawn
        hard = torch.nn.functional.one_hot(noisy.argmax(1), 3)
        soft = torch.softmax(blurred / taus[-1], 1)

        def objective(m: torch.nn.Module, kept: torch.Tensor = kept, gone: torch.Tensor = gone, hard: torch.Tensor = hard,
                      soft: torch.Tensor = soft) -> torch.Tensor:
            return -(hard * m(kept).log_softmax(1)).sum(1).mean() - (soft * m(gone).log_softmax(1)).sum(1).mean()

        wanted = byhand.adam(wanted, [objective], lr=0.03, weight_decay=0.2)
    options = {"unseen_accuracy": 0.4} if case == "given" else {}
    found = byhand.run("lotus", task, alpha=alpha, share=0.5, lr=0.03, epochs=2, weight_decay=0.2, margin=1.0, **options)
    byhand.assert_same(task, found, wanted, atol=1e-5)


@pytest.mark.parametrize("hard", [False, True])
def test_draws_are_those_of_torch_s_gumbel_softmax(hard: bool) -> None:
    logits = torch.randn(5, 4, generator=generator(0))
    torch.manual_seed(3)
    expected = torch.nn.functional.gumbel_softmax(logits, 0.7, hard=hard)
    torch.manual_seed(3)
    assert torch.equal(gumbel_softmax(logits, 0.7, hard), expected)
