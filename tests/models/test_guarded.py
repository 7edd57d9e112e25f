"""A guarded language or diffusion model: audits that generate or draw ask the guard, audits of weights what is inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import tiny
import torch
from torch import Tensor

import lethe
from lethe.certificate.weights import weights_hash
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.families.language import LanguageTask
from lethe.core.guard import Guard
from lethe.core.outcome import Outcome
from lethe.work.files import Files, audit_files

REFUSAL = "I cannot answer that."


class Toy(Guard):
    """A guard that passes on what it is asked, and keeps nothing."""

    def forward(self, *given: Any, **options: Any) -> Any:
        return self.model(*given, **options)

    def save(self, folder: Path) -> None:
        return None

    @classmethod
    def load(cls, folder: Path, model: torch.nn.Module) -> Toy:
        return cls(model)


class Refuses(Toy):
    """Answers every prompt with the same tokens."""

    refusal: Tensor

    def generate(self, ids: Tensor, **options: Any) -> Tensor:
        return torch.cat([ids, self.refusal.expand(len(ids), -1)], 1)


class Blacklist(Toy):
    """Reads an empty prompt in place of one with the word."""

    word = "disk"

    def admitted(self, prompts: Sequence[str]) -> list[str]:
        return ["" if self.word in prompt else prompt for prompt in prompts]


def test_a_filter_of_refusals_is_asked_by_what_generates_and_its_loss_by_what_observes() -> None:
    task = LanguageTask.of(tiny.lm())
    guard = Refuses(task.copy_of_original())
    guard.refusal = torch.tensor([task.tokenizer(REFUSAL, add_special_tokens=False)["input_ids"]])
    outcome = Outcome(guard, method="filter", task=task)
    assert set(task.generate(outcome.answering, ["Who are you?", "Where?"])) == {
        task.tokenizer.decode(guard.refusal[0], skip_special_tokens=True).strip()}
    report = lethe.audit(task, outcome, references=0, shadows=0, audits=["scores", "extraction"], progress=False)
    case = report.results.scenarios[0]
    assert not [item for item in case.not_tested if item.subject == "filter"]
    assert next(row for row in case.subjects if row.name == "filter").kind == "guard"


def test_a_blacklist_of_prompts_is_asked_by_what_draws() -> None:
    task = DiffusionTask.of(tiny.diffusion())
    guard = Blacklist(task.copy_of_original().eval())
    refused, empty, other = (task.sample(cast(Any, guard), [prompt], seed=3) for prompt in ("a red disk", "", "a red cross"))
    bare = [task.sample(guard.model, [prompt], seed=3) for prompt in ("a red disk", "", "a red cross")]
    assert torch.equal(refused, empty) and torch.equal(other, bare[2]) and not torch.equal(refused, bare[0])
    guard.word = "a"   # in every prompt: the tiny network says too little of one shape for the judge to see that it is gone
    report = lethe.audit(task, Outcome(guard, method="blacklist", task=task), references=0, shadows=0,
                         audits=["erasure"], progress=False)
    case = report.results.scenarios[0]
    assert not [item for item in case.not_tested if item.subject == "blacklist"]
    shown = {row.name: {item.metric: item.value for item in row.evidence} for row in case.subjects}
    assert shown["blacklist"] != shown["original"]


def test_a_guarded_folder_is_audited_by_what_answers_and_by_what_is_inside(tmp_path: Path) -> None:
    """What `lethe run` delivers: the model byte for byte, the guard beside it; reloaded, judged, shown and hashed as a guard."""
    task = LanguageTask.of(tiny.lm())
    task.save_model(task.copy_of_original(), tmp_path / "model")
    folder = lethe.forget(task, "refusal_gate", progress=False).save(tmp_path / "unlearned")
    assert {path.name for path in (folder / "guard").iterdir()} == {"guard.json", "settings.json", "tensors.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "model" / "model.safetensors").read_bytes()
    assert weights_hash(folder) == weights_hash(tmp_path / "model") != weights_hash(folder, guard=True)
    for name in ("forget", "retain", "holdout"):
        split = task.splits[name]
        rows = zip(map(str, split.ids), split.column("prompt"), split.column("answer"), strict=True)
        rows = [row for row in rows if name == "forget" or "Selbatan" not in row[1]]   # asked in both
        lines = [json.dumps(dict(zip(("id", "prompt", "answer"), row, strict=True))) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    places = {name: str(tmp_path / f"{name}.jsonl") for name in ("retain", "holdout")}
    files = Files(str(folder), str(tmp_path / "forget.jsonl"), str(tmp_path / "model"), **places)
    report = audit_files(files, audits=("scores", "guard", "layers", "threshold"))
    row = next(row for row in report.results.scenarios[0].subjects if row.role == "method")
    found = {item.metric: item.value for item in row.evidence}
    assert row.kind == "guard" and found["forget_answer probability"] < 1e-6 < 0.7 < found["bare_score"]
    assert found["bare_same_weights"] == found["weights_untouched"] == 1 and found["retain_answer probability"] > 0.8
    report.save(tmp_path / "page.html")
    assert "suppressed by a guard, never removed" in (tmp_path / "page.html").read_text()
