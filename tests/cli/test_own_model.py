"""Bring your own model: each comes in, is worked on through the command line, and goes out in the format it came in,
loadable with its own library in a process that never imports Lethe."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml
from forked import lethe
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
NET = '''
import torch

class Net(torch.nn.Module):
    def __init__(self, inputs=6, classes=4):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(inputs, 16), torch.nn.ReLU())
        self.out = torch.nn.Linear(16, classes)

    def forward(self, x):
        return self.out(self.body(x.flatten(1)))

def make(inputs=6, classes=4):
    return Net(inputs, classes)
'''


def without_lethe(code: str, cwd: Path) -> str:
    """Run code where importing lethe fails."""
    guard = "import sys; sys.modules['lethe'] = None\n"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", guard + code], cwd=cwd, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def request(folder: Path, **content: object) -> Path:
    path = folder / "request.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    assert len(found) == 1, found
    return found[0]


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A user's own model file and its weights, trained on blobs."""
    (tmp_path / "net.py").write_text(NET)
    namespace: dict[str, object] = {}
    exec(NET, namespace)
    torch.manual_seed(0)
    model = namespace["make"]()   # type: ignore[operator]
    data = tiny.blobs(160, 0, "train").columns
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(data["x"]), data["y"]).backward()
        optimiser.step()
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    return tmp_path


MODEL = {"code": "net.py:make", "weights": "net.safetensors"}
RECIPE = {"epochs": 10, "lr": 1e-2, "batch_size": 32}


def test_arrays_and_a_state_dict(net: Path) -> None:
    train, holdout = tiny.blobs(160, 0, "train").columns, tiny.blobs(80, 1, "holdout").columns
    np.savez(net / "train.npz", x=train["x"].numpy(), y=train["y"].numpy())
    np.savez(net / "holdout.npz", x=holdout["x"].numpy(), y=holdout["y"].numpy())
    before = (net / "net.safetensors").read_bytes()
    path = request(net, family="classification", model=MODEL, recipe=RECIPE, forget={"label": 3},
                   audit={"references": 3, "shadows": 0},
                   data={"kind": "npz", "path": "train.npz", "holdout": "holdout.npz"}, method="neggrad_plus")
    plan = json.loads(lethe(net, "run", path, "--dry-run", "--json", status=0).stdout)
    assert not plan["trains_original"] and not (net / "runs").exists()
    results = json.loads(lethe(net, "run", path, "--json", status=0).stdout)
    rows = {row["name"]: row for row in results["scenarios"][0]["subjects"]}
    assert {"original", "retrained", "neggrad_plus"} <= rows.keys()
    assert rows["original"]["conclusion"]["verdict"] == "outside"
    saved = only(net, "runs/*/models/*/model.safetensors")
    code = ("from net import make; import safetensors.torch as s; m = make(); "
            f"m.load_state_dict(s.load_file({str(saved)!r})); print('ok')")
    assert without_lethe(code, net) == "ok"
    assert (net / "net.safetensors").read_bytes() == before
    again = lethe(net, "run", path, status=0)
    assert "finished run" in again.stderr and "neggrad_plus" in again.stdout
    run = only(net, "runs/*/results.json").parent
    page = (run / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script src" not in page
    assert "neggrad_plus" in lethe(net, "report", run, status=0).stdout
    assert json.loads(lethe(net, "results", "--json", status=0).stdout)
    assert "intact" in lethe(net, "results", "--verify", status=0).stdout
    audit = json.loads(lethe(net, "audit", run, "--depth", "quick", "--json", status=0).stdout)
    assert audit["scenarios"][0]["subjects"]


def test_exit_statuses_tell_the_truth(net: Path) -> None:
    train = tiny.blobs(160, 0, "train").columns
    np.savez(net / "train.npz", x=train["x"].numpy(), y=train["y"].numpy())
    path = request(net, family="classification", model=MODEL, data={"kind": "npz", "path": "train.npz", "holdout": 0.2},
                   forget={"label": 3}, audit={"references": 0, "depth": "quick"}, method={"name": "gradient_ascent", "lr": 1e38},
                   watchdog=False, accept=["provenance"])
    failed = lethe(net, "run", path, status=3)
    assert "gradient_ascent" in failed.stdout
    refused = lethe(net, "run", path, "method.lr=-1", status=2)
    assert "OutOfRange" in refused.stderr and "Traceback" not in refused.stderr
    assert "forget.label" not in lethe(net, "run", path, "forget={label: 9}", status=2).stdout
    lethe(net, "run", "missing.yaml", status=2)
    lethe(net, "describe", "nothing_like_it", status=2)
    lethe(net, "rum", status=2)
    known = json.loads(lethe(net, "results", "--json", status=0).stdout)
    assert {run["status"] for run in known} == {"finished"}, "what is refused before work starts leaves no entry"


def test_a_table_with_a_column_query(net: Path) -> None:
    columns = tiny.blobs(160, 0, "train").columns
    pairs = zip(columns["x"], columns["y"], strict=True)
    rows = [[*map(float, x), int(y), ["north", "south"][i % 2]] for i, (x, y) in enumerate(pairs)]
    with open(net / "people.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["a", "b", "c", "d", "e", "f", "label", "region"])
        writer.writerows(rows)
    path = request(net, family="classification", model={"code": "net.py:make"}, recipe=RECIPE, method="retrain",
                   data={"kind": "table", "path": "people.csv", "label": "label", "features": list("abcdef"), "holdout": 0.2},
                   forget={"query": "region == 'north' and a > 0"}, audit={"references": 0, "depth": "quick"})
    results = json.loads(lethe(net, "run", path, "--json", status=0).stdout)
    assert results["scenarios"][0]["subjects"][0]["conclusion"]["verdict"] == "no yardstick"
    assert only(net, "runs/*/models/*/model.safetensors").exists()


def test_an_image_folder(net: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for place, name in enumerate(["cats", "dogs", "owls"]):
        (net / "pictures" / name).mkdir(parents=True)
        for i in range(12):
            picture = rng.integers(0, 80, (8, 8), dtype=np.uint8) + np.uint8(80 * place)
            Image.fromarray(picture).save(net / "pictures" / name / f"{i:02}.png")
    path = request(net, family="classification", model={"code": "net.py:make", "options": {"inputs": 64, "classes": 3}},
                   recipe=RECIPE, data={"kind": "images", "path": "pictures", "holdout": 0.25}, method="neggrad_plus",
                   forget={"text": "cats"}, audit={"references": 0, "depth": "quick"})
    described = json.loads(lethe(net, "run", path, "--dry-run", "--json", status=0).stdout)
    assert described["scenarios"]["request"]["sizes"]["forget"] > 0
    lethe(net, "run", path, "--json", status=0)
    assert only(net, "runs/*/models/*/model.safetensors").exists()


def test_a_causal_language_model_folder_with_jsonl(tmp_path: Path) -> None:
    task = tiny.TASKS["lm"]()
    (tmp_path / "model").mkdir()
    task.save_model(task.copy_of_original(), tmp_path / "model")
    for name in ("forget", "retain"):
        split = task.splits[name]
        with open(tmp_path / f"{name}.jsonl", "w") as handle:
            for i in range(min(len(split), 12)):
                row = {"prompt": split.meta["prompt"][i], "answer": split.meta["answer"][i], "id": f"{name}-{i}"}
                handle.write(json.dumps(row) + "\n")
    path = request(tmp_path, family="lm", model={"folder": "model", "base": "model"}, recipe={"epochs": 1, "lr": 1e-3},
                   data={"forget": "forget.jsonl", "retain": "retain.jsonl", "id": "id", "others": {"kin": "retain.jsonl"}},
                   method={"name": "npo", "lr": 1e-3, "epochs": 2}, audit={"depth": "quick", "references": 3})
    case = json.loads(lethe(tmp_path, "run", path, "--json", status=0).stdout)["scenarios"][0]
    assert case["references"]["count"] == 3 and case["sizes"]["kin"] == case["sizes"]["retain"]
    assert all(sample["kind"] == "text" for sample in case["subjects"][-1]["samples"])
    saved = only(tmp_path, "runs/*/models/*/config.json").parent
    code = (f"from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; m = M.from_pretrained({str(saved)!r}); "
            f"t = T.from_pretrained({str(saved)!r}); print(m.generate(**t('a', return_tensors='pt'), max_new_tokens=2).shape[0])")
    assert without_lethe(code, tmp_path).splitlines()[-1] == "1"


@pytest.mark.slow   # tests/models/test_diffusion_files.py: diffusers opens such a folder
def test_a_stable_diffusion_style_folder_with_a_concept(tmp_path: Path) -> None:
    from lethe.models.diffusion.files import save_pipeline
    from lethe.models.diffusion.small import pipeline

    (tmp_path / "pipeline").mkdir()
    save_pipeline(pipeline(latent=True), tmp_path / "pipeline")
    path = request(tmp_path, family="diffusion", model={"folder": "pipeline"}, method="uce",
                   data={"concept": "disk", "prompts": ["a red disk"], "keep": ["a red square"], "per_prompt": 2, "steps": 2,
                         "guidance": 1.0},
                   audit={"depth": "quick", "references": 0, "neighbours": 0})
    lethe(tmp_path, "run", path, "--json", status=0)
    saved = only(tmp_path, "runs/*/models/*/model_index.json").parent
    code = (f"from diffusers import StableDiffusionPipeline as P; p = P.from_pretrained({str(saved)!r}); "
            "print(p('a red disk', num_inference_steps=1, output_type='np').images.shape[0])")
    assert without_lethe(code, tmp_path).splitlines()[-1] == "1"


def test_the_trained_original_is_found_again_by_another_process(net: Path) -> None:
    """The cache is named by what determines the weights, so a killed run does not train its original twice."""
    columns = tiny.blobs(160, 0, "train").columns
    np.savez(net / "train.npz", x=columns["x"].numpy(), y=columns["y"].numpy())
    path = request(net, family="classification", model={"code": "net.py:make"}, recipe=RECIPE, method="finetune",
                   data={"kind": "npz", "path": "train.npz", "holdout": 0.2}, forget={"label": 3},
                   audit={"references": 0, "depth": "quick"})
    for method in ("finetune", "gradient_ascent"):
        lethe(net, "run", path, f"method={method}", "--json", status=0)
    assert only(net, "runs/.cache/original/*.safetensors").exists()
