"""Models of any library, from a table and two ids to forget to a model file, a page, a ledger entry and a certificate."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
import yaml
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeClassifier

import lethe
from lethe.core.catalogue import entries
from lethe.data.load import load
from lethe.errors import LetheError, NeedsUnmet, OutputShape, PickleRefused, RequestError
from lethe.ledger import Ledger
from lethe.models.fitted import Fitted
from lethe.work.execute import Options, carry_out
from lethe.work.request import parse

FOREST = """
from sklearn.ensemble import RandomForestClassifier

def fit(x, y, seed):
    return RandomForestClassifier(20, random_state=seed).fit(x, y)
"""


def people(n: int = 160, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return (rng.normal(size=(n, 4)) + 1.5 * np.eye(4)[y]).astype(np.float32), y


def tree(x: np.ndarray, y: np.ndarray, seed: int) -> DecisionTreeClassifier:
    return DecisionTreeClassifier(random_state=seed, max_features=2).fit(x, y)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table of people, the code of a forest, and a request that forgets two of them."""
    x, y = people()
    rows = [f"p{i},{','.join(f'{value:.4f}' for value in x[i])},{'abc'[y[i]]}" for i in range(len(y))]
    (tmp_path / "people.csv").write_text("\n".join(["id,a,b,c,d,kind", *rows]) + "\n")
    (tmp_path / "forest.py").write_text(FOREST)
    (tmp_path / "request.yaml").write_text(yaml.safe_dump({
        "family": "fitted_classifier", "model": {"fit": "forest.py:fit"},
        "data": {"path": "people.csv", "label": "kind", "id": "id", "holdout": 0.3}, "forget": {"ids": ["p3", "p8"]},
        "method": "retrain", "audit": {"references": 3, "shadows": 0}}))
    return tmp_path


def lethe_(folder: Path, *arguments: object, status: int = 0) -> str:
    return forked.lethe(folder, *arguments, status=status).said


def test_a_forest_on_a_table_from_two_ids_to_a_certificate(folder: Path) -> None:
    train = load({"path": str(folder / "people.csv"), "label": "kind", "id": "id", "holdout": 0.3})["train"]
    ids = [str(one) for one in train.ids[:2]]
    lethe_(folder, "run", "request.yaml", f"forget.ids=[{', '.join(ids)}]")
    run = next((folder / "runs").glob("*/results.json")).parent
    assert (run / "report.html").exists()
    made = pickle.loads((run / "models" / "retrain" / "model.pkl").read_bytes())   # needs scikit-learn, not Lethe
    seed = made.random_state
    wanted = RandomForestClassifier(20, random_state=seed).fit(train.columns["x"].numpy()[2:], train.columns["y"].numpy()[2:])
    x = train.columns["x"].numpy()
    assert np.array_equal(made.predict_proba(x), wanted.predict_proba(x))   # exactly the fit without the two
    results = json.loads((run / "results.json").read_text())["scenarios"][0]
    audits = {item["audit"] for row in results["subjects"] if row["role"] == "method" for item in row["evidence"]}
    assert {"scores", "threshold", "divergence"} <= audits
    assert not any(item["defect"] for item in results["not_tested"])
    ledger = Ledger(folder / "runs" / "ledger.sqlite")
    assert ledger.runs(method="retrain") and ledger.verify() is None
    lethe_(folder, "certify", run, "--key", folder / "key.pem")
    assert list(folder.rglob("certificates/*"))


def test_shards_are_fitted_again_where_they_held_a_record_and_nowhere_else(folder: Path) -> None:
    lethe_(folder, "train", "request.yaml", "--exact", "sharded", "--output", "shards", "method={name: sharded, shards: 3}")
    said = lethe_(folder, "run", folder / "shards" / "request.yaml", "forget={ids: [p2]}", "--allow-code", status=2)
    assert "allow" in said and "pickle" in said
    lethe_(folder, "run", folder / "shards" / "request.yaml", "forget={ids: [p2]}", "--allow-code", "--allow-pickle")
    results = next(folder.rglob("runs/*/results.json"))
    row = next(row for row in json.loads(results.read_text())["scenarios"][0]["subjects"] if row["role"] == "method")
    assert not row["error"] and row["guarantee"]["shards_retrained"] == 1 and row["guarantee"]["level"] == "exact"
    assert Path(row["config"]["trained"]) == folder / "shards"
    assert (results.parent / "models" / "sharded" / "manifest.json").exists()   # the next deletion starts from there


def test_numbers_and_certain_answers_are_observed_as_they_are(tmp_path: Path) -> None:
    x, _ = people()
    y = (x @ np.array([1.0, -2.0, 0.5, 0.0], dtype=np.float32)).astype(np.float32)
    task = lethe.fitted_regressor(lambda x, y, seed: Ridge().fit(x, y), (x[:100], y[:100]), [0, 1], (x[100:], y[100:]))
    seen = task.observe(task.original, task.holdout.batch([0, 1, 2]))
    wanted = Ridge().fit(x[:100], y[:100]).predict(x[100:103])
    assert np.allclose(seen["prediction"][:, 0].numpy(), wanted, atol=1e-4)
    assert torch.allclose(seen["nll"], (seen["prediction"][:, 0] - seen["y"][:, 0]).square(), atol=1e-6)
    hard = lethe.fitted_classifier(tree, (x[:100], people()[1][:100]), [0], predict=lambda model, x: model.predict(x))
    assert hard.observe(hard.original, hard.retain.batch([0, 1]))["score"].tolist() == [1.0, 1.0]
    report = lethe.audit(task, lethe.forget(task, "sharded", shards=2, progress=False), depth="quick", references=3, shadows=0)
    assert not any(row.error for row in report.results.scenarios[0].subjects)


def test_only_what_needs_no_weights_is_offered() -> None:
    fits = {name for name, entry in entries("methods").items() if entry.fits("fitted_classifier")}
    assert {"retrain", "sharded"} <= fits <= {"retrain", "sharded", "auto"}
    task = lethe.fitted_classifier(tree, people(), [0, 1], people(60, 1))
    with pytest.raises(NeedsUnmet):
        lethe.forget(task, "finetune", progress=False)


@pytest.mark.parametrize(("options", "kind", "words"), [
    ({"fit": lambda x, y: None}, RequestError, r"model\.fit"),
    ({"fit": lambda x, y, seed: None}, LetheError, "returned nothing"),
    ({"fit": lambda x, y, seed: 1 / 0}, LetheError, "ZeroDivisionError"),
    ({"fit": lambda x, y, seed: (lambda: 0)}, LetheError, "cannot be pickled"),
    ({"predict": lambda model, x: model.predict_proba(x)[:1]}, OutputShape, r"\[1, 3\] for 2 examples"),
    ({"predict": lambda model, x: 5 * model.predict_proba(x)}, OutputShape, "probabilities lie in"),
])
def test_what_is_no_fitted_model_is_refused(options: dict[str, Any], kind: type[LetheError], words: str) -> None:
    with pytest.raises(kind, match=words):
        lethe.fitted_classifier(**{"fit": tree, "train": people(), "forget": [0, 1], **options})


def test_a_pickle_of_unknown_origin_is_not_loaded(folder: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (exec, ("raise SystemExit('it ran')",))

    (folder / "m.pkl").write_bytes(pickle.dumps(Bomb()))
    content = yaml.safe_load((folder / "request.yaml").read_text())
    content["model"]["saved"] = str(folder / "m.pkl")
    with pytest.raises(PickleRefused):
        carry_out(parse(content, base=folder), Options())
    with pytest.raises(PickleRefused):
        Fitted().put_tensors({"state": torch.frombuffer(bytearray(pickle.dumps(Bomb())), dtype=torch.uint8),
                              "digest": torch.zeros(32, dtype=torch.uint8)})
