"""Small tables bundled with scikit-learn; numbers are standardised with the training statistics."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from lethe.core.config import config
from lethe.core.split import Split
from lethe.data import encode as encoding
from lethe.data.context import Context

TARGETS: dict[str, encoding.Target] = {"breast_cancer": "class", "wine": "class", "iris": "class", "diabetes": "number"}


LEARNS = True   # inputs are standardised or encoded by statistics of the whole training part


@config(name="data")
class Bundled:
    """breast_cancer (569 × 30, 2 classes), wine (178 × 13, 3), iris (150 × 4, 3), diabetes (442 × 10, a number)."""

    name: Literal["breast_cancer", "wine", "iris", "diabetes"] = "breast_cancer"   # which table


def read(cfg: Bundled, context: Context, name: str) -> dict[str, Split]:
    import sklearn.datasets

    bunch: Any = getattr(sklearn.datasets, f"load_{cfg.name}")()
    columns = {column: bunch.data[:, k] for k, column in enumerate(bunch.feature_names)}
    ids = np.array([f"{cfg.name}:{i}" for i in range(len(bunch.data))])
    return {name: encoding.rows({**columns, "target": bunch.target}, name, ids)}


def encode(cfg: Bundled, splits: dict[str, Split]) -> dict[str, Split]:
    names = [column for column in splits["train"].meta if column != "target"]
    return encoding.targets(encoding.features(splits, names), "target", TARGETS[cfg.name])
