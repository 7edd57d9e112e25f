"""Models from elsewhere: whatever they raise is a line, never the end; what only answers is asked for answers alone."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from panels import pool
from torch import Tensor, nn

from lethe import api
from lethe.core.modules import copied
from lethe.data.select import Where
from lethe.errors import PickleRefused, RequestError
from lethe.results.schema import Row, Scenario
from lethe.work.files import Files, audit_files

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


@contextmanager
def served(answers: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[int]:
    """The port of a server on this machine that answers a posted question."""
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.dumps(answers(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


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
        "could not be run on this model: KeyError: 'lost' (in test_foreign.py, line 43)"]
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
    task, model = tiny.classification(FORGET), fresh()

    def answers(asked: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            return {"outputs": model(torch.tensor(asked["inputs"])).tolist()}

    (tmp_path / "before").mkdir()
    task.save_model(task.original, tmp_path / "before")
    for name in ("forget", "retain", "holdout"):
        np.savez(tmp_path / f"{name}.npz", **{key: value.numpy() for key, value in task.splits[name].columns.items()})
    with served(answers) as port:
        found = audit_files(Files(
            unlearned=f"http:/127.0.0.1:{port}/ask", original=str(tmp_path / "before"),   # as a Path writes it
            model={"zoo": "mlp", "options": {"inputs": 6, "hidden": [16], "classes": 4}},
            **{name: str(tmp_path / f"{name}.npz") for name in ("forget", "retain", "holdout")}), "standard",
            ["scores", "threshold", "probe"])
    case = found.results.scenarios[0]
    assert {e.audit for e in case.subjects[-1].evidence} == {"scores", "threshold"}
    assert case.subjects[-1].measured("forget_accuracy").value <= 0.1
    assert any(one.audit == "probe" and "could not be run on this model" in one.why for one in case.not_tested)
    said = list(case.facts["checked"].values())
    assert "model.safetensors sha256" in said[0] and "no file to hash" in said[1]


def test_a_language_model_behind_openais_form_is_asked_for_texts(tmp_path):
    """/v1/completions, answered by the original: greedy and sampled texts are its own; audits of probabilities say why not."""
    task = tiny.lm()
    (tmp_path / "before").mkdir()
    task.save_model(task.copy_of_original(), tmp_path / "before")
    for name in ("forget", "retain"):
        split = task.splits[name]
        rows = [json.dumps({"prompt": p, "answer": a}) for p, a in zip(split.meta["prompt"], split.meta["answer"], strict=True)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    asked: list[dict[str, Any]] = []

    def answers(question: dict[str, Any]) -> dict[str, Any]:
        asked.append(question)
        texts = task.generate(task.original, question["prompt"], max_new_tokens=question["max_tokens"])
        return {"choices": [{"index": i, "text": text} for i, text in enumerate(texts)][::-1]}

    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("forget", "retain")}
    with served(answers) as port:
        url = f"http://127.0.0.1:{port}/v1"
        found = audit_files(Files(unlearned=url, original=str(tmp_path / "before"), model={"name": "tiny"}, **files), "standard",
                            [{"name": "sampling", "samples": 2, "k": 1, "examples": 4, "new_tokens": 6}, "scores"])
        with pytest.raises(RequestError, match="no tokenizer"):
            audit_files(Files(unlearned=url, **files))
    case = found.results.scenarios[0]
    mine = {e.metric for e in case.subjects[-1].evidence}
    assert "leak_at_1" in mine and not any(metric.startswith("forget_") for metric in mine)
    assert any(q["temperature"] == 1.0 and q["model"] == "tiny" and q["top_p"] == 0.9 for q in asked)
    line = next(one for one in case.not_tested if one.audit == "scores")
    assert line.why.startswith("could not be run on this model: ") and "gives texts" in line.why and not case.defects
    assert "no file to hash" in case.facts["checked"][url]


def saved(split: Any, path: Any, *columns: str) -> str:
    np.savez(path, **{key: split.columns[key].numpy() for key in columns})
    return str(path)


def test_an_int8_program_is_audited_where_programs_may_run(tmp_path):
    task = tiny.classification(FORGET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        int8 = torch.ao.quantization.quantize_dynamic(fresh(), {nn.Linear}, dtype=torch.qint8)
        torch.jit.save(torch.jit.trace(int8, torch.zeros(2, 6)), tmp_path / "int8.ts")
    (tmp_path / "before").mkdir()
    task.save_model(task.original, tmp_path / "before")
    model = {"zoo": "mlp", "options": {"inputs": 6, "hidden": [16], "classes": 4}}
    parts = {name: saved(task.splits[name], tmp_path / f"{name}.npz", "x", "y") for name in ("forget", "holdout")}
    asked = {"unlearned": str(tmp_path / "int8.ts"), "original": str(tmp_path / "before"), "model": model, **parts}
    with pytest.raises(RequestError, match="only answers"):
        audit_files(Files(**{**asked, "original": None}))
    with pytest.raises(PickleRefused, match=r"int8\.ts"):
        audit_files(Files(**asked))
    found = audit_files(Files(**asked, allow_pickle=True), "standard", ["scores", "threshold"])
    assert found.value("int8", "forget_accuracy") <= 0.1
    assert "int8.ts sha256" in found.results.scenarios[0].facts["checked"][asked["unlearned"]]


def test_regression_and_data_without_labels_from_files(tmp_path):
    task = tiny.regression()
    (tmp_path / "model").mkdir()
    task.save_model(task.original, tmp_path / "model")
    parts = {name: saved(task.splits[name], tmp_path / f"{name}.npz", "x", "y") for name in ("forget", "retain", "holdout")}
    shape = dict(zip(("inputs", "classes"), (task.forget.columns["x"].shape[1], 1), strict=True))
    hidden = [len(task.original.state_dict()[name]) for name in list(task.original.state_dict())[::2]][:-1]
    found = audit_files(Files(unlearned=str(tmp_path / "model"), original=str(tmp_path / "model"), accept=("score",),
                              model={"zoo": "mlp", "options": {**shape, "hidden": hidden}}, **parts), "quick")
    assert found.results.scenarios[0].family == "regression" and len(found.rows()[-1].evidence) > 3

    task, other = tiny.classification(FORGET), fresh()
    for name, model in (("before", task.original), ("after", other)):
        (tmp_path / name).mkdir()
        task.save_model(model, tmp_path / name)
    parts = {name: saved(task.splits[name], tmp_path / f"bare_{name}.npz", "x") for name in ("forget", "retain")}
    found = audit_files(Files(unlearned=str(tmp_path / "after"), original=str(tmp_path / "before"), data={"y": ""}, **parts,
                              model={"zoo": "mlp", "options": {"inputs": 6, "hidden": [16], "classes": 4}}), "quick")
    assert found.value("original", "forget_accuracy") == 1.0 and found.value("after", "forget_accuracy") <= 0.1
    assert "first model's answers" in found.results.scenarios[0].facts["labels"]
