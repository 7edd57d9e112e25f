"""Thirty architectures and more, each tiny and in a folder, through `lethe run` as a user runs it.

Per architecture: NPO on every weight, RMU or its refusal, NPO as a LoRA adapter; what was saved gives the audited
log-probabilities when it is loaded again; greedy answers are those of an arg-max loop although the folder proposes others.
"""

from __future__ import annotations

import json
from pathlib import Path

import lm_architectures as architectures
import pytest
import torch
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.core.outcome import Outcome
from lethe.core.sequences import encode_prompts
from lethe.models.lm import open as lm
from lethe.models.lm.task import Language

QUICK = ["llama", "gemma2"]   # in the default suite: grouped heads; soft caps and windows
NO_MLP = {"mamba", "mamba2", "falcon_mamba", "rwkv"}   # RMU moves the MLPs' down projections, which these do not have
RUNS = {
    "npo": {"method": {"name": "npo", "epochs": 1, "lr": 1e-3}},
    "rmu": {"method": {"name": "rmu", "steps": 2, "lr": 1e-3}},
    "lora": {"method": {"name": "npo", "epochs": 1, "lr": 5e-3}, "modifiers": {"where": {"name": "lora", "rank": 2}}},
}
REQUEST = {
    "family": "lm", "data": {"train": "people.jsonl"}, "forget": {"query": "person < 6"}, "seed": 0,
    "audit": {"audits": ["scores"], "depth": "quick", "references": 0},
    "accept": ["predictions"],   # they are made from a config, untrained
}


@pytest.mark.parametrize("architecture", [
    name if name in QUICK else pytest.param(name, marks=[pytest.mark.slow, *[architectures.LLAMA4_BROKEN] * (name == "llama4")])
    for name in architectures.ARCHITECTURES])
def test_architecture(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = "no MLP down projection was recognised"
    wrong = found(architecture, tmp_path, monkeypatch)
    assert wrong == {"npo": "", "rmu": refused if architecture in NO_MLP else "", "lora": "", "greedy": ""}


def found(architecture: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is wrong with each run of an architecture, and with its greedy answers; empty where nothing is."""
    monkeypatch.chdir(place)
    folder = architectures.saved(architecture, place / "model")
    (place / "people.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in architectures.people()))
    original = lm.language_model(folder, forget=architectures.people(6))
    wrong = {name: ran(name, folder, told(original), monkeypatch) for name in RUNS}
    prompts = [str(row["prompt"]) for row in architectures.people(3)]
    tokens = encode_prompts(prompts, original.tokenizer, original.form)
    want = [architectures.argmax(original.original, ids, 8, [2]) for ids in tokens]
    texts = [text.strip() for text in original.tokenizer.batch_decode(want, skip_special_tokens=True)]
    return {**wrong, "greedy": "" if original.generate(original.original, prompts, 8) == texts else "not the arg-max loop"}


def ran(name: str, folder: Path, before: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is wrong with `lethe run`: its error, or a saved model that does not give the audited log-probabilities."""
    audited: list[torch.Tensor] = []
    save = Outcome.save

    def noted(self: Outcome, to: str | Path) -> Path:
        with torch.no_grad():
            audited.append(self.task.token_logp(self.model, self.task.forget.batch(range(6))))
        return save(self, to)

    Path(f"{name}.yaml").write_text(json.dumps({**REQUEST, "model": {"folder": str(folder)}, "output": name, **RUNS[name]}))
    with monkeypatch.context() as patched:
        patched.setattr(Outcome, "save", noted)
        done = CliRunner().invoke(app, ["run", f"{name}.yaml"])
    refusal = "no MLP down projection was recognised"
    if done.exit_code:
        known = refusal in done.output and done.exit_code == 3
        return refusal if known else f"status {done.exit_code}: {next(Path(name).rglob('failures/*.txt')).read_text()[-400:]}"
    saved = [path.parent for path in Path(name).rglob("config.json")]
    if len(saved) != 1 or len(audited) != 1:
        return f"{len(saved)} models were saved and {len(audited)} audited"
    now = told(lm.language_model(saved[0], forget=architectures.people(6)))
    apart, moved = float((now - audited[0]).abs().max()), float((now - before).abs().max())
    if apart < 1e-4 < moved:
        return ""
    return f"what loads differs by {apart:.1e} from what was audited, by {moved:.1e} from the original"


def told(task: Language) -> torch.Tensor:
    """log p of every answer token of the forget set."""
    return task.token_logp(task.original, task.forget.batch(range(6))).detach()
