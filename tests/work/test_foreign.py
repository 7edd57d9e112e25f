"""Models from elsewhere: whatever they raise is a line, never the end; what only answers is asked for answers alone."""

from __future__ import annotations

import warnings

import pytest
import tiny
import torch
from panels import pool
from torch import Tensor, nn

from lethe import api
from lethe.core.modules import copied
from lethe.data.select import Where
from lethe.results.schema import Row, Scenario

FORGET = Where(label=3)


class Wrapped(nn.Module):
    """Answers by the model inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Broken(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("lost")


class Remote(nn.Module):
    """Only answers: no parameters, no layers, no gradients."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.ask = [inner]

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.ask[0](x)


class Filter(Wrapped):
    """Never answers class 3; the original is inside."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x).clone()
        logits[:, 3] = logits.min() - 1
        return logits


def audited(model: nn.Module, *audits: str, references: int = 0) -> tuple[Scenario, Row]:
    found = api.audit(tiny.classification(FORGET), model, depth="standard", references=references, shadows=0, audits=audits,
                      progress=False).results.scenarios[0]
    return found, found.subjects[-1]


def fresh() -> nn.Module:
    return copied(pool(FORGET, 1)[0].model, trainable=False)


@pytest.mark.parametrize("kind", [Remote, "int8", "traced"])
def test_a_model_that_only_answers_is_asked_for_answers_alone(kind):
    x = torch.zeros(2, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = (kind(fresh()) if kind is Remote else torch.jit.trace(fresh(), x) if kind == "traced" else
                 torch.ao.quantization.quantize_dynamic(fresh(), {nn.Linear}, dtype=torch.qint8))
        case, row = audited(model, "scores", "threshold", "population", "steering")
    assert {e.audit for e in row.evidence} == {"scores", "threshold", "population"}
    line = next(one for one in case.not_tested if one.subject == "unlearned")
    assert line.audit == "steering" and line.why.startswith("could not be run on this model: ") and not case.defects


def test_a_model_that_cannot_answer_is_not_examined():
    case, row = audited(Broken(Remote(fresh())), "scores", "threshold", "guard")
    assert row.conclusion.verdict == "not examined" and row.answers.forgotten.answer == "cannot be judged"
    assert [one.why for one in case.not_tested if one.audit == "scores"] == [
        "could not be run on this model: KeyError: 'lost' (in test_foreign.py, line 34)"]
    assert not case.defects


def test_the_original_inside_a_wrapper_is_decisive_without_any_reference():
    case, row = audited(Filter(copied(tiny.classification(FORGET).original, trainable=False)), "scores", "guard")
    assert row.measured("forget_accuracy").value == 0.0
    assert row.conclusion.verdict == "outside" and "every number of the original" in row.conclusion.text
    assert row.answers.forgotten.answer == "no" and row.answers.forgotten.test.metric == "bare_same_weights"
    assert case.subjects[0].conclusion.verdict != "outside"   # of the control itself it says nothing


def test_attacks_that_so_few_shadows_leave_without_a_value_say_so(tmp_path):
    task = tiny.classification(FORGET)
    found = api.audit(task, fresh(), references=0, shadows=2, audits=("base", "rmia"), progress=False, cache=tmp_path)
    lines = {one.audit: one.why for one in found.results.scenarios[0].not_tested}
    assert set(lines) == {"base", "rmia"} and all("2 shadow models are too few" in why for why in lines.values())


def test_a_served_model_is_audited_by_its_address(tmp_path):
    import json
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    import numpy as np

    from lethe.work.files import Files, audit_files

    task, model = tiny.classification(FORGET), fresh()

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
            with torch.no_grad():
                body = json.dumps({"outputs": model(torch.tensor(asked)).tolist()}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            return

    (tmp_path / "before").mkdir()
    task.save_model(task.original, tmp_path / "before")
    for name in ("forget", "retain", "holdout"):
        np.savez(tmp_path / f"{name}.npz", **{key: value.numpy() for key, value in task.splits[name].columns.items()})
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        found = audit_files(Files(
            unlearned=f"http:/127.0.0.1:{server.server_port}/ask", original=str(tmp_path / "before"),   # as a Path writes it
            model={"zoo": "mlp", "options": {"inputs": 6, "hidden": [16], "classes": 4}},
            **{name: str(tmp_path / f"{name}.npz") for name in ("forget", "retain", "holdout")}), "standard",
            ["scores", "threshold", "probe"])
    finally:
        server.shutdown()
        server.server_close()
    case = found.results.scenarios[0]
    assert {e.audit for e in case.subjects[-1].evidence} == {"scores", "threshold"}
    assert case.subjects[-1].measured("forget_accuracy").value <= 0.1
    assert any(one.audit == "probe" and "could not be run on this model" in one.why for one in case.not_tested)
    said = list(case.facts["checked"].values())
    assert "model.safetensors sha256" in said[0] and "no file to hash" in said[1]
