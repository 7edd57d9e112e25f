"""One small finished run with planted e-mail addresses as record ids, and its certificate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lethe.work.execute import Options, carry_out
from lethe.work.request import parse
from lethe.work.verify import certify as issue

PEOPLE = [f"person{i}@example.org" for i in range(120)]


@dataclass
class Issued:
    """folder: of the certificate; run: what it is about; key: the private key; work: everything stands in it."""

    folder: Path
    run: Path
    key: Path
    work: Path

    @property
    def model(self) -> Path:
        return self.run / "models" / "retrain"


@pytest.fixture(scope="session")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    work = tmp_path_factory.mktemp("certificate")
    rng = np.random.default_rng(0)
    y = np.arange(len(PEOPLE)) % 3
    x = rng.normal(size=(len(PEOPLE), 4)).astype(np.float32) + 2 * y[:, None].astype(np.float32)
    np.savez(work / "people.npz", x=x, y=y, name=np.array(PEOPLE))
    request = parse({
        "family": "classification", "title": f"Forget {kept(work)[0]}", "output": str(work / "runs"),
        "model": {"zoo": "mlp", "options": {"inputs": 4, "hidden": [8], "classes": 3}},
        "data": {"path": str(work / "people.npz"), "ids": "name", "holdout": 0.3},
        "recipe": {"epochs": 5, "lr": 0.05, "batch_size": 16}, "forget": {"ids": []}, "method": ["retrain", "finetune"],
        "audit": {"depth": "quick", "references": 3, "shadows": 0, "audits": ["scores"]},
    }, [f"forget.ids=[{', '.join(kept(work))}]"])
    report = carry_out(request, Options(export=True))
    assert report is not None
    run = work / "runs" / report.results.id
    made = issue(run, work / "key.pem", method="retrain")
    assert made.key_made and made.folder.parent.name == "certificates"
    return Issued(made.folder, run, work / "key.pem", work)


def kept(work: Path) -> list[str]:
    """Six people of the training part."""
    from lethe.data.load import load

    train = load({"path": str(work / "people.npz"), "ids": "name", "holdout": 0.3})["train"]
    return [str(name) for name in train.ids[:6]]
