"""Small tables bundled with scikit-learn; numbers are standardised with the training statistics."""

from __future__ import annotations

from typing import Any

import numpy as np

from lethe.core.config import config
from lethe.core.split import Split
from lethe.data import encode as encoding
from lethe.data.context import Context
from lethe.errors import unknown_name

TARGETS = {"breast_cancer": "class", "wine": "class", "iris": "class", "diabetes": "number"}


@config
class Bundled:
    """breast_cancer (569 × 30, 2 classes), wine (178 × 13, 3), iris (150 × 4, 3), diabetes (442 × 10, a number)."""

    name: str = "breast_cancer"   # breast_cancer | wine | iris | diabetes


def read(cfg: Bundled, context: Context, name: str) -> dict[str, Split]:
    if cfg.name not in TARGETS:
        raise unknown_name("bundled table", cfg.name, TARGETS)
    import sklearn.datasets

    bunch: Any = getattr(sklearn.datasets, f"load_{cfg.name}")()
    columns = {column: bunch.data[:, k] for k, column in enumerate(bunch.feature_names)}
    ids = np.array([f"{cfg.name}:{i}" for i in range(len(bunch.data))])
    return {name: encoding.rows({**columns, "target": bunch.target}, name, ids)}


def encode(cfg: Bundled, splits: dict[str, Split]) -> dict[str, Split]:
    names = [column for column in splits["train"].meta if column != "target"]
    return encoding.targets(encoding.features(splits, names), "target", TARGETS[cfg.name])
