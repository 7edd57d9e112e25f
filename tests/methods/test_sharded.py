"""Sharded: the served answer worked out from fits of one's own, and a deletion as the training without the records."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

import lethe
from lethe.core.modules import state_fingerprint
from lethe.core.split import concat
from lethe.exact.slicing import place
from lethe.methods.exact import sharded
from lethe.train.loop import Loop, Settings

IDS = [f"r{i}" for i in range(90)]


def people(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(n) % 3
    return (np.random.default_rng(seed).normal(size=(n, 4)) + 1.5 * np.eye(4)[y]).astype(np.float32), y


def tree(x: np.ndarray, y: np.ndarray, seed: int) -> DecisionTreeClassifier:
    return DecisionTreeClassifier(random_state=seed, max_features=2).fit(x, y)


def bayes(x: np.ndarray, y: np.ndarray, seed: int) -> GaussianNB:
    return GaussianNB().fit(x, y)


def test_the_answer_is_the_mean_over_shards_of_what_each_says_without_the_records() -> None:
    (x, y), (unseen, _) = people(90), people(60, 1)
    task = lethe.fitted_classifier(bayes, {"x": x, "y": y, "ids": IDS}, [4, 5], people(60, 1))
    made = lethe.forget(task, "sharded", seed=3, shards=3, progress=False)
    shard = np.array([place(one, 3, 1, 3)[0] for one in IDS])   # by the hash of a record's own id
    kept = ~np.isin(np.arange(90), [4, 5])
    fits = [bayes(x[kept & (shard == k)], y[kept & (shard == k)], 0) for k in range(3)]
    wanted = np.mean([one.predict_proba(unseen) for one in fits], 0)   # of probabilities, not of their logarithms
    found = task.outputs(made.model, task.holdout.batch(range(60))).exp()
    assert np.allclose(found.numpy(), wanted, atol=1e-6, rtol=0)
    assert made.guarantee["shards_retrained"] == len(set(shard[[4, 5]]))


def test_a_deletion_is_the_training_without_the_records() -> None:
    x, y = people(90)
    options: dict[str, Any] = {"fit": tree, "forget": [4, 5], "holdout": people(60, 1)}
    task = lethe.fitted_classifier(train={"x": x, "y": y, "ids": IDS}, **options)
    made = lethe.forget(task, "sharded", seed=3, shards=4, progress=False)
    kept = [i for i in range(90) if i not in (4, 5)]
    without = {"x": x[kept], "y": y[kept], "ids": [IDS[i] for i in kept]}
    other = lethe.fitted_classifier(train=without, **{**options, "forget": [0]})
    again = other.granted({"forget", "retain", "recipe"})
    loop = Loop(again, Settings(seed=3))
    whole = concat([again.retain, again.forget], "train")
    assert state_fingerprint(sharded.served(sharded.train(sharded.Sharded(shards=4), other, loop, whole))) == state_fingerprint(
        made.model)
    single = lethe.forget(task, "sharded", seed=3, shards=1, progress=False)
    assert single.guarantee["shards_retrained"] == 1
