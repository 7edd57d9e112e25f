"""Meta-evaluation: closed forms, and the published tables recomputed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lethe.maths.meta import faithfulness, harmonic_mean, overall, perturbation_robustness, relearning_robustness
from lethe.maths.tofu import model_utility


def read(path: Path) -> Any:
    with gzip.open(path, "rt") as file:
        return json.load(file)


def test_golden():
    assert harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3) and harmonic_mean([0.0, 1.0]) == 0
    assert faithfulness([3, 2], [1, 2])[0] == 0.875                                 # 3 wins and a tie of 4
    # moves of 0.2 and −0.2 beside a retrained 0.1: 1 − 0.1/0.3 and 1 − 0.3/0.3
    assert relearning_robustness([0.1, 0.5], [0.3, 0.3], 0.2, 0.3) == pytest.approx((2 / 3 + 0) / 2)
    assert relearning_robustness([0.4], [0.4], 0.2, 0.2) == 1
    assert perturbation_robustness([0.2, 0.3], [0.6, 0.3]) == pytest.approx((0.5 + 1) / 2)   # 1 − 0.4/0.8
    assert overall(1.0, 0.5, 1.0) == pytest.approx(0.8)                             # H(1, 2/3)


def test_published_robustness_is_the_harmonic_mean(data_root: Path):
    """22 metrics; the table has four digits, so R and Q are known to 5e-5."""
    table = read(data_root / "reference/uds_meta_eval.json.gz")["robustness"]
    assert len(table) == 22
    for row in table.values():
        assert harmonic_mean([row["relearning"], row["quantization"]]) == pytest.approx(row["agg"], abs=1.5e-4)


def test_published_composites_of_152_models(data_root: Path):
    models = read(data_root / "reference/uds_method_results.json.gz")["models"]
    assert len(models) == 152
    parts = {
        "mem": ["one_minus_es", "one_minus_em", "one_minus_paraprob", "one_minus_truth"],
        "privacy_mia": ["s_loss", "s_zlib", "s_mink", "s_minkpp"], "privacy": ["privacy_mia", "uds"],
        "utility": ["model_utility", "fluency"], "overall": ["mem", "privacy", "utility_rel"],
    }
    for name, keys in parts.items():
        for model in models:
            assert harmonic_mean([model[key] for key in keys]) == pytest.approx(model[name], abs=1e-6), (name, model["model"])


def test_published_model_utility_has_nine_terms(data_root: Path):
    models = read(data_root / "reference/uds_method_results.json.gz")["models"]
    names = [f"{s}_{t}" for s in ("retain", "ra", "wf") for t in ("q_prob", "q_rouge", "truth_ratio")]
    gaps = [model_utility([m[name] for name in names]) - m["model_utility"] for m in models]
    assert np.abs(gaps).max() < 1e-6
