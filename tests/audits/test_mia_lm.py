"""Membership of texts: scores by hand, published AUC arithmetic, controls, clear errors."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
import tiny
import torch
from lm_world import examined, measured, pool, pushed
from panels import said

from lethe.core.evidence import INSIDE, OUTSIDE
from lethe.core.sequences import pad_id
from lethe.maths.token_scores import mean_logp, min_k, privleak, reference_min_k, s_mia, standardised, zlib_score
from lethe.pools.subject import Subject

LOGP = np.array([[-1.0, -4.0, -2.0, -0.5, -9.0], [-3.0, 0.0, 0.0, 0.0, 0.0], [-7.0, 0.0, 0.0, 0.0, 0.0]])
INSIDE_ = np.array([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=bool)   # 4 tokens, 1 token, none


def test_scores_golden():
    """−(1 + 4 + 2 + 0.5)/4 = −1.875; the 2 smallest of 4: −3; at least one token; nothing for no tokens."""
    assert mean_logp(LOGP, INSIDE_)[:2] == pytest.approx([-1.875, -3]) and np.isnan(mean_logp(LOGP, INSIDE_)[2])
    assert min_k(LOGP, INSIDE_, 0.5)[:2] == pytest.approx([-3, -3]) and np.isnan(min_k(LOGP, INSIDE_, 0.5)[2])
    assert min_k(LOGP, INSIDE_, 0.01)[0] == -4 and min_k(LOGP, INSIDE_, 1.0)[0] == pytest.approx(-1.875)
    # (−3 − (−2))/√4 = −0.5; a certain prediction has variance 0 and stays finite
    assert standardised(np.array([[-3.0, 0.0]]), np.array([[-2.0, 0.0]]), np.array([[4.0, 0.0]])) == pytest.approx(
        np.array([[-0.5, 0.0]]))
    assert zlib_score(np.array([-2.0]), ["aaaa"]) == pytest.approx(-2 / len(zlib.compress(b"aaaa")))


def test_min_k_equals_the_loop():
    rng = np.random.default_rng(0)
    logp, length = -rng.exponential(size=(50, 30)), rng.integers(1, 31, 50)
    inside = np.arange(30) < length[:, None]
    for share in (0.1, 0.2, 0.4, 1.0):
        looped = [reference_min_k(row[:n].tolist(), share) for row, n in zip(logp, length, strict=True)]
        assert min_k(logp, inside, share) == pytest.approx(looped, abs=1e-12)


def test_privleak_golden():
    """Memorised (AUC 1): −100; as retrained: 0; over-forgotten (AUC 0, retrained 0.5): (1 − 0.5)/0.5 = +100."""
    assert [privleak(a, 0.5) for a in (1.0, 0.5, 0.0)] == [-100, 0, 100] and privleak(0.7, 0.7) == 0
    assert math.isnan(privleak(0.5, 1.0))
    assert s_mia(0.5, 0.5) == 1 and s_mia(1.0, 0.5) == 0 and s_mia(0.4, 0.5) == pytest.approx(0.8)


def test_of_known_columns():
    """Forget texts have log-probability −1, holdout texts −2: every attack separates them; retrained models say −2 on both."""
    task = tiny.lm()

    def model(forget: float, holdout: float, name: str) -> Subject:
        columns = {}
        for key, level in (("forget", forget), ("holdout", holdout), ("retain", forget)):
            n = len(task.splits[key])
            row = np.full((n, 4), level) + 1e-3 * np.arange(n)[:, None]
            columns[key] = {"token_logp": row, "token_mean": np.full((n, 4), -3.0), "token_var": np.ones((n, 4)),
                            "content_mask": np.ones((n, 4), bool), "answer_mask": np.ones((n, 4), bool)}
        return said(task, name, **columns)

    references = tuple(model(-2, -2, f"r{i}") for i in range(3))
    found = measured("mia_lm", model(-1, -2, "known"), references)
    assert [found[f"{key}_auc"].value for key in ("min_k", "loss", "min_k_plus", "reference")] == [1, 1, 1, 1]
    theirs = np.mean(-2 + 1e-3 * np.arange(8)[:, None] > -2 + 1e-3 * np.arange(16)) + 0.5 / 16
    assert found["privleak"].detail["retrained_auc"] == pytest.approx(theirs) and found["privleak"].value == pytest.approx(-100)
    assert found["min_k_tpr_at_10"].value == 1 and "min_k_tpr_at_5" not in found      # 16 others cannot resolve 5 %
    same = measured("mia_lm", model(-2, -2, "same"), references)
    assert same["privleak"].value == pytest.approx(0) and same["s_mia"].value == pytest.approx(1)
    assert measured("mia_lm", model(-1, -2, "few"), references, fewest=9) == {}


@pytest.mark.slow
def test_controls_on_the_tiny_language_model():
    found = examined("mia_lm", "deep", {"over": pushed()})
    assert found["untouched"]["min_k_auc"].verdict == OUTSIDE and found["untouched"]["min_k_auc"].value > 0.95
    assert found["fresh"]["min_k_auc"].verdict == INSIDE
    assert found["untouched"]["privleak"].value < -40 < found["fresh"]["privleak"].value < 40
    assert found["untouched"]["gradient_auc"].value > 0.9 and "update_auc" not in found["original"]
    over = found["over"]
    assert over["min_k_auc"].value < 0.2 and over["privleak"].value > 20             # over-forgetting is found as well
    assert over["min_k_auc"].verdict == OUTSIDE and over["min_k_auc"].direction == "over-forgotten"
    assert over["update_auc"].value > 0.95 and found["fresh"]["update_auc"].value > 0.95   # exact deletion shows too


@pytest.mark.slow
def test_fast_scores_equal_a_pass_of_their_own():
    """LOSS and Min-K++ of one text, from the logits."""
    task, subject = tiny.lm(), pool()[0]
    from lethe.audits.lm.mia_lm import MIALM, scores

    found = scores(MIALM(), subject, task.forget)
    row = task.forget.batch([2])
    with torch.no_grad():
        logp = subject.model(input_ids=row.ids).logits.log_softmax(-1)[0]
    places = [t for t in range(row.ids.shape[1]) if row.labels[0, t] != -100 and t < int(row.length[0]) - 1]   # end left out
    token = torch.stack([logp[t - 1, row.ids[0, t]] for t in places])
    mean = torch.stack([(logp[t - 1].exp() * logp[t - 1]).sum() for t in places])
    var = torch.stack([(logp[t - 1].exp() * logp[t - 1] ** 2).sum() for t in places]) - mean**2
    assert int(row.ids[0, int(row.length[0]) - 1]) == task.tokenizer.eos_token_id != pad_id(task.tokenizer)
    z = ((token - mean) / var.sqrt()).tolist()
    assert found["loss"][2] == pytest.approx(float(token.mean()), abs=1e-5)
    assert found["min_k_plus"][2] == pytest.approx(reference_min_k(z, 0.2), abs=1e-4)
