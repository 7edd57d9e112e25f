"""Peak memory of one way in this process, in multiples of a float32 model: its own, without libraries and data.

    python memory_of.py WAY FOLDER          way: npo, checkpoints, lora, audit; prints {"peak": multiples, "weights": bytes}
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import peft  # noqa: F401  imported before the measurement
import torch
from transformers import LlamaForCausalLM  # noqa: F401

import lethe
from lethe.core import catalogue
from lethe.core.parked import parked
from lethe.judge.auditor import examine
from lethe.models.lm.open import language_model, load_folder
from lethe.pools.subject import Subject
from lethe.train import run
from lethe.train.settings import Settings

torch.set_num_threads(1)
AUDITS, REFERENCES = ("scores", "extraction", "mia_lm"), 3
NAMES = ("ba", "ko", "mi", "ru", "sel", "tan", "vo", "dri")


def records(count: int, start: int) -> list[dict[str, Any]]:
    """Made-up questions and answers of about sixty tokens."""
    def name(i: int, length: int) -> str:
        return " ".join(NAMES[(i // 8**k) % 8] for k in range(length))

    return [{"id": f"r{i}", "prompt": f"What does {name(i, 4)} like?", "answer": f"It likes {name(7 * i, 8)} and nothing else."}
            for i in range(start, start + count)]


def resident(peak: bool = False) -> int:
    """Bytes of this process in memory, or the most since the last `reset`."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:" if peak else "VmRSS:"))


def measured(way: str, folder: Path) -> dict[str, float]:
    """The way at work, once on a model of no size for what the first call of a process loads, and then on the one that counts."""
    carried_out(way, folder, "tiny")
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")   # the peak is counted from here
    before = resident()
    weights = carried_out(way, folder, "model")
    return {"peak": (resident(peak=True) - before) / weights, "weights": weights}


def carried_out(way: str, folder: Path, name: str) -> int:
    """Open the model, do what the way is, save. -> bytes of its weights"""
    task = language_model(folder / name, forget=records(8, 0), retain=records(16, 100), holdout=records(16, 200))
    weights = sum(p.nbytes for p in task.original.parameters())
    if way == "audit":
        names = ("unlearned", *map(str, range(REFERENCES)))
        subjects = [Subject(one, parked(load_folder(folder / name)), task) for one in names]
        examine(task, subjects[:1], Subject("original", task.original, task), subjects[1:],
                [(one, one.config()) for one in (catalogue.load("audits", audit) for audit in AUDITS)])
        return weights
    kept = folder / f"{name}-run" if way == "checkpoints" else None
    run.RATE = float("inf")   # the first checkpoint is written as soon as the settings say
    outcome = lethe.forget(
        task, {"name": "npo", "epochs": 1, "lr": 1e-4, "batch_size": 4}, folder=kept, progress=False,
        modifiers={"where": {"name": "lora"}} if way == "lora" else {},
        settings=Settings(device="cpu", checkpoint_seconds=0.0 if kept else 30.0))
    outcome.save(folder / f"{name}-{way}")
    return weights


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], Path(sys.argv[2]))))
