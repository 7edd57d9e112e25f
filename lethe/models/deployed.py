"""Models as they are deployed: an ONNX file, or an endpoint that answers over HTTP. They answer, and nothing else can be asked.

    deployed("net.onnx")                     read by onnxruntime, where it is installed; no code of the file runs
    deployed("http://127.0.0.1:8000/ask")    POST {"inputs": [[…], …]} -> {"outputs": [[…], …]}, one row an example

Neither has weights to compare, features or gradients: audits that need them say that they could not be run on this model.
"""

from __future__ import annotations

import json
import re
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.files import file_hash
from lethe.errors import ModelError, NeedsUnmet

WEB = re.compile(r"^(https?):/+")
SECONDS = 60.0   # an endpoint that is silent for longer is not there


def is_deployed(path: str | Path) -> bool:
    """Whether a path is an endpoint's address or an exported model."""
    return bool(WEB.match(str(path))) or Path(path).suffix == ".onnx"


def deployed(path: str | Path) -> nn.Module:
    """The model behind an address or in an exported file."""
    return Endpoint(address(path)) if WEB.match(str(path)) else Exported(Path(path))


def address(path: str | Path) -> str:
    """The address as it was written: a Path makes one slash of two."""
    return WEB.sub(r"\1://", str(path))


def checked(path: str | Path) -> str:
    """Which hash names the model that was audited, in words."""
    if WEB.match(str(path)):
        return "served: there is no file to hash, and what answers may be another model at any time"
    place = Path(path)
    files = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    return ", ".join(f"{file.relative_to(place) if place.is_dir() else file.name} sha256 {file_hash(file)}" for file in files)


class Endpoint(nn.Module):
    """Asks an address for the outputs of a batch."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def forward(self, x: Tensor) -> Tensor:
        body = json.dumps({"inputs": x.detach().cpu().tolist()}).encode()
        asked = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=SECONDS) as reply:
                outputs = torch.tensor(json.load(reply)["outputs"], dtype=torch.float32)
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{self.url} gave no outputs for {len(x)} examples ({type(error).__name__}: {str(error)[:200]}), so "
                             'the model cannot be audited. It must answer {"inputs": […]} with {"outputs": […]}.') from None
        if outputs.dim() < 1 or len(outputs) != len(x):
            raise ModelError(f"{self.url} answers {len(x)} examples with {tuple(outputs.shape)} outputs, so they cannot be told "
                             "apart. It must give one row for each example.")
        return outputs.to(x.device)


class Exported(nn.Module):
    """An ONNX graph with one input, run on the CPU."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError:
            raise NeedsUnmet(f"{path} is an ONNX file, and onnxruntime is not installed, so it cannot be asked; nothing was "
                             "audited. pip install onnxruntime, or serve the model and pass its address.") from None
        try:
            self.session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:   # the library has errors of its own for every fault of a file
            raise ModelError(f"{path} cannot be read as ONNX ({str(error)[:200]}), so there is no model. Export it "
                             "again.") from None

    def forward(self, x: Tensor) -> Tensor:
        name = self.session.get_inputs()[0].name
        return torch.from_numpy(self.session.run(None, {name: x.detach().cpu().numpy()})[0]).to(x.device)
