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
    data(folder, 1000, "unseen.npz")
    (folder / "net.py").write_text(NET.format(act="ReLU"))
    weights(folder, 0)
    content = {
        "family": "classification", "model": {"code": "net.py:make", "weights": "w.safetensors"},
        "data": {"path": "people.npz", "test": "unseen.npz"}, "forget": {"index": [0, 1, 2, 3]},
        "recipe": {"epochs": 1, "lr": 0.05, "batch_size": 16}, "method": {"name": "finetune", "epochs": 1}, "watchdog": False,
        "audit": {"depth": "quick", "references": 0, "shadows": 0, "neighbours": 0, "audits": ["scores"]},
    }
    (folder / "request.yaml").write_text(yaml.safe_dump({**content, **changes}))
    return folder / "request.yaml"


def people(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [90, 4] and labels [90] of three classes that lie apart."""
    y = np.arange(90) % 3
    x = np.random.default_rng(seed).normal(size=(len(y), 4)) + 2 * y[:, None]
    return x.astype(np.float32), y


def data(folder: Path, seed: int, name: str = "people.npz") -> None:
    x, y = people(seed)
    np.savez(folder / name, x=x, y=y)


def weights(folder: Path, seed: int) -> None:
    """A network that has learnt the people of seed 0; another seed, another network."""
    x, y = (torch.from_numpy(part) for part in people(0))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
    save_file(net.state_dict(), folder / "w.safetensors")
