"""TOFU's metrics: golden numbers, the published logs, and the slow forms."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lethe.audits.lm.extraction import exact_memorisation, extraction_strength, extraction_strength_floored
from lethe.maths import tofu

UTILITY = {  # of the models whose per-sample logs TOFU published; computed from the logs by other code
    "llama2_7b_full": 0.6227, "llama2_7b_retain90": 0.6137, "llama2_7b_retain95": 0.6006, "llama2_7b_retain99": 0.6207,
    "phi15_full": 0.5221, "phi15_retain90": 0.5320, "phi15_retain95": 0.5250, "phi15_retain99": 0.5186,
}
UTILITY_LOGS = ("eval_log.json", "eval_real_author_wo_options.json", "eval_real_world_wo_options.json")


def published(data_root: Path, name: str) -> dict[str, Any]:
    with gzip.open(data_root / "reference" / f"tofu_eval_{name}.json.gz", "rt") as handle:
        return json.load(handle)


def column(log: dict[str, Any], key: str) -> np.ndarray:
    return np.array(list(log[key].values()))


def ratios(log: dict[str, Any]) -> np.ndarray:
    return tofu.truth_ratio_geometric(column(log, "avg_paraphrased_loss"), column(log, "average_perturb_loss"))


@pytest.mark.parametrize("name", UTILITY)
def test_model_utility_of_published_models(data_root: Path, name: str) -> None:
    logs, terms = published(data_root, name), []
    for part in UTILITY_LOGS:
        log = logs[part]
        loss, wrong = column(log, "avg_gt_loss"), column(log, "average_perturb_loss")
        likely = tofu.probability(loss) if part == "eval_log.json" else tofu.option_probability(loss, wrong)
        terms += [likely.mean(), column(log, "rougeL_recall").mean(), tofu.truthfulness(ratios(log)).mean()]
    assert round(tofu.model_utility(terms), 4) == UTILITY[name]


@pytest.mark.parametrize(("model", "p"), [("llama2_7b", "1.83e-21"), ("phi15", "2.19e-16")])
def test_forget_quality_of_published_models(data_root: Path, model: str, p: str) -> None:
    logs = [published(data_root, f"{model}_{which}")["eval_log_forget.json"] for which in ("full", "retain90")]
    full, retrained = map(ratios, logs)
    assert f"{tofu.forget_quality(full, retrained).p:.2e}" == p
    assert tofu.forget_quality(retrained, retrained).p == 1.0


def test_rouge_against_published_values(data_root: Path) -> None:
    """The published values are stemmed, ours are not: never above them, equal where no word was inflected."""
    log = published(data_root, "llama2_7b_retain90")["eval_log_forget.json"]
    own = np.array([tofu.rouge_l_recall(said, truth) for _, said, truth in log["generated_text"].values()])
    gap = own - column(log, "rougeL_recall")
    assert gap.max() < 1e-9 and -0.02 < gap.mean() < 0.0 and (abs(gap) < 1e-9).mean() > 0.75


def test_truth_ratio_golden() -> None:
    """P(ã) = 1/2, wrong answers 1/4 and 1/16: arithmetic (5/32)/(1/2) = 0.3125, geometric (1/8)/(1/2) = 0.25."""
    right, wrong = -np.log([0.5]), -np.log([[0.25, 0.0625]])
    assert tofu.truth_ratio(right, wrong)[0] == pytest.approx(0.3125, rel=1e-12)
    assert tofu.truth_ratio_geometric(right, wrong)[0] == pytest.approx(0.25, rel=1e-12)
    assert tofu.truthfulness(np.array([0.3125, 2.0])).tolist() == [0.6875, 0.0]
    assert tofu.indifference(np.array([0.25, 4.0, 0.0])).tolist() == [0.25, 0.25, 0.0]


def test_option_probability_golden() -> None:
    """1/2 against 1/4 and 1/4: one half; and no underflow for losses of thousands."""
    assert tofu.option_probability(-np.log([0.5]), -np.log([[0.25, 0.25]]))[0] == pytest.approx(0.5)
    assert tofu.option_probability(np.array([5000.0]), np.array([[5000.0]]))[0] == pytest.approx(0.5)


def test_model_utility_is_a_harmonic_mean() -> None:
    """3/(1/1 + 1/(1/2) + 1/(1/3)) = 3/6; any zero gives 0."""
    assert tofu.model_utility([1, 1 / 2, 1 / 3]) == pytest.approx(0.5)
    assert tofu.model_utility([1, 1, 0]) == 0.0


def test_forget_quality_does_not_underflow_and_ignores_monotone_transforms() -> None:
    """2,000 against 2,000 points that do not overlap: D = 1, log10 p = (ln 2 − 2·1·1000)/ln 10 = −868.29."""
    rng = np.random.default_rng(0)
    low, high = rng.random(2000), 2 + rng.random(2000)
    assert tofu.forget_quality(low, high).log10_p == pytest.approx(-868.29, abs=0.01)
    near = low[:200] + 0.1
    assert tofu.forget_quality(low[:200], near) == tofu.forget_quality(np.exp(low[:200]), np.exp(near))


def test_rouge_golden() -> None:
    """'the cat sat' of 'The cat, on the mat, sat.': the-cat-sat, 3 of 6 words; word order matters."""
    assert tofu.rouge_l_recall("the cat sat", "The cat, on the mat, sat.") == 0.5
    assert tofu.rouge_l_recall("sat cat", "cat sat") == 0.5
    assert tofu.rouge_l_recall("", "cat") == 0.0 and tofu.rouge_l_recall("cat", "?!") == 0.0


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abcd")))
def test_common_subsequence_equals_the_table(left: list[str], right: list[str]) -> None:
    assert tofu.common_subsequence(left, right) == tofu.reference_common_subsequence(left, right)


def test_extraction_strength_constructed() -> None:
    """L = 4, padded to 6: all right 1; last wrong 0 (floored 1/4); only first wrong 3/4; second wrong 1/2."""
    inside = torch.tensor([[1, 1, 1, 1, 0, 0]] * 4 + [[0] * 6]).bool()
    rows = [[1, 1, 1, 1, 0, 1], [1, 1, 1, 0, 1, 1], [0, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]
    right = torch.tensor(rows).bool()
    assert extraction_strength(right, inside).tolist() == [1.0, 0.0, 0.75, 0.5, 0.0]
    assert extraction_strength_floored(right, inside).tolist() == [1.0, 0.25, 0.75, 0.5, 0.0]
    assert exact_memorisation(right, inside).tolist() == [1.0, 0.75, 0.75, 0.75, 0.0]


def test_model_utility_interval_covers() -> None:
    """1,000 draws of three correlated terms of 60 examples: 95 % intervals cover the truth 93–97 % of the time."""
    rng, truth, hits = np.random.default_rng(0), tofu.model_utility([0.6, 0.3, 0.5]), 0
    for _ in range(1000):
        common = rng.random((60, 1))
        terms = np.array([0.6, 0.3, 0.5]) * (0.5 + 0.5 * common + 0.5 * rng.random((60, 3)))
        low, _, high = tofu.model_utility_interval([terms])
        hits += low <= truth <= high
    assert 930 <= hits <= 970


def test_model_utility_interval_golden() -> None:
    """One term: the mean ± 1.96·s/√n; a term of zero: no utility."""
    low, value, high = tofu.model_utility_interval([np.array([[0.2], [0.4]])])
    assert value == pytest.approx(0.3)
    assert high - value == value - low == pytest.approx(1.959964 * 0.02**0.5 / 2**0.5, rel=1e-5)
    assert tofu.model_utility_interval([np.array([[0.2, 0.0], [0.4, 0.0]])]) == (0.0, 0.0, 0.0)
