"""Language models quantised in 4 bits: an adapter moves, the base stays, and the adapter comes back as it was audited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_architectures as architectures
import pytest
import tiny
import torch
from torch import nn
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.core.modules import state_fingerprint
from lethe.errors import RequestError
from lethe.models.lm import open as lm
from lethe.train.loop import Loop, Settings

NPO = {"name": "npo", "lr": 1e-2, "epochs": 2}


def test_codes_of_a_quantised_layer_do_not_move_by_themselves() -> None:
    task: Any = tiny.classification()
    model = task.copy_of_original()
    model.register_parameter("packed", nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False))
    quantised = task.replaced(model)
    with pytest.raises(RequestError, match=r"packed and 0 others are quantised.*modifiers\.where=lora"):
        Loop(quantised, Settings()).start()


def logp(task: Any, model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return task.token_logp(model, task.forget.batch(range(4)))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that bitsandbytes holds in 4 bits."""
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = tmp_path_factory.mktemp("quantised")
    whole = architectures.saved("llama", folder / "whole")
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    AutoModelForCausalLM.from_pretrained(whole, quantization_config=how, device_map={"": "cpu"}).save_pretrained(folder / "base")
    architectures.tokenizer().save_pretrained(folder / "base")
    return folder / "base"


def test_the_adapter_on_a_quantised_base_comes_back(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line, with audits that take apart, relearn and round; what is loaded again is what was audited."""
    monkeypatch.chdir(tmp_path)
    rows = architectures.people()
    for name, part in (("forget", rows[:6]), ("retain", rows[6:18]), ("holdout", rows[18:])):
        Path(f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part))
    audited = architectures.asked_when_saved(monkeypatch, logp)
    request = {"family": "lm", "model": {"folder": str(base)}, "method": NPO, "modifiers": {"where": {"name": "lora", "rank": 2}},
               "data": {"forget": "forget.jsonl", "retain": "retain.jsonl", "holdout": "holdout.jsonl"}, "output": "out",
               "audit": {"audits": ["guard", "scores", "quantise", "recovery_cost"], "neighbours": 1}, "accept": ["predictions"]}
    Path("job.yaml").write_text(json.dumps(request))
    done = CliRunner().invoke(app, ["run", "job.yaml"])
    assert done.exit_code == 0, done.output
    out = next(path.parent for path in Path("out").rglob("adapter_model.safetensors"))
    assert not list(out.rglob("model*.safetensors")) and (out / "tokenizer_config.json").exists()
    again = lm.language_model(out, forget=rows[:6])
    assert (logp(again, again.original) - audited[0]).abs().max() < 1e-4
    loop = Loop(again, Settings())
    moving = loop.selected(loop.start())
    assert moving and all("lora_" in name for name in moving)   # the next deletion moves it on
    untouched = lm.language_model(base, forget=rows[:6])
    assert (logp(untouched, untouched.original) - audited[0]).abs().max() > 1e-2
    stays = {name.replace("base_layer.", ""): value for name, value in again.original.state_dict().items() if "lora_" not in name}
    assert all(torch.equal(value, stays[name]) for name, value in untouched.original.state_dict().items())


def test_a_quantised_base_is_refused_where_all_of_it_would_move(base: Path) -> None:
    task = lm.language_model(base, forget=architectures.people(6))
    before = state_fingerprint(task.original)
    with pytest.raises(RequestError, match=r"q_proj\.weight and \d+ others are quantised.*where=lora"):
        Loop(task, Settings()).start()
    assert state_fingerprint(task.original) == before
