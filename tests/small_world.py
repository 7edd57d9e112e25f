"""The smallest request with files of its own: a table, a network in a file, its weights; a run takes half a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

NET = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(4, 8), nn.{act}(), nn.Linear(8, 3))\n"


def build(folder: Path, **changes: Any) -> Path:
    """Write the files and the request into `folder`; the request's path."""
    folder.mkdir(parents=True, exist_ok=True)
    data(folder, 0)
    (folder / "net.py").write_text(NET.format(act="ReLU"))
    weights(folder, 0)
    content = {
        "family": "classification", "model": {"code": "net.py:make", "weights": "w.safetensors"},
        "data": {"path": "people.npz", "test": 0.2}, "forget": {"index": [0, 1, 2, 3]},
        "recipe": {"epochs": 1, "lr": 0.05, "batch_size": 16}, "method": {"name": "finetune", "epochs": 1}, "watchdog": False,
        "audit": {"depth": "quick", "references": 0, "shadows": 0, "neighbours": 0, "audits": ["scores"]},
    }
    (folder / "request.yaml").write_text(yaml.safe_dump({**content, **changes}))
    return folder / "request.yaml"


def data(folder: Path, seed: int) -> None:
    y = np.arange(90) % 3
    x = np.random.default_rng(seed).normal(size=(len(y), 4)) + 2 * y[:, None]
    np.savez(folder / "people.npz", x=x.astype(np.float32), y=y)


def weights(folder: Path, seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_file(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).state_dict(), folder / "w.safetensors")
