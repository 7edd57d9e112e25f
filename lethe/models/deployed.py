"""Models as they are deployed: exported files, and endpoints that answer over HTTP. They answer, and nothing else can be asked.

    deployed("net.onnx")                     read by onnxruntime, where it is installed; no code of the file runs
    deployed("net.ts", True)                 TorchScript, also of quantised layers; a program, so only where that is allowed
    deployed("http://127.0.0.1:8000/ask")    POST {"inputs": [[…], …]} -> {"outputs": [[…], …]}, one row an example

    ServedText("http://127.0.0.1:8000/v1")   a language model behind OpenAI's form: POST …/completions -> texts

None has weights to compare, features or gradients: audits that need them say that they could not be run on this model.
"""

from __future__ import annotations

import json
import re
import urllib.request
import warnings
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.files import file_hash, refuse_pickle
from lethe.errors import ModelError, NeedsUnmet

SCRIPTS = (".ts", ".torchscript")
WEB = re.compile(r"^(https?):/+")
TEXTS = re.compile(r"/v1(/(chat/)?completions)?/?$")   # how addresses of OpenAI's form end
BATCH = 32       # prompts of one question to an address
SECONDS = 60.0   # an endpoint that is silent for longer is not there


def is_deployed(path: str | Path) -> bool:
    """Whether a path is an endpoint's address or an exported model."""
    return (bool(WEB.match(str(path))) and not is_served_text(path)) or Path(path).suffix in (".onnx", *SCRIPTS)


def is_served_text(path: str | Path) -> bool:
    """Whether a path is the address of a language model behind OpenAI's form."""
    return bool(WEB.match(str(path)) and TEXTS.search(str(path)))


def deployed(path: str | Path, allow_pickle: bool = False) -> nn.Module:
    """The model behind an address or in an exported file. allow_pickle: files that are programs may be run"""
    if Path(path).suffix in SCRIPTS:
        return _script(Path(path), allow_pickle)
    return Endpoint(address(path)) if WEB.match(str(path)) else Exported(Path(path))


def _script(path: Path, allowed: bool) -> nn.Module:
    refuse_pickle(path, "Export it as ONNX", allowed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")   # torch would rather read its newer form
            model: nn.Module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read as TorchScript ({str(error).splitlines()[0][:200]}), so there is no model. Save "
                         "it again: torch.jit.save(…).") from None
    return Scripted(model.eval())


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


def asked(url: str, question: dict[str, Any], wanted: str) -> Any:
    """What an address answers, as JSON; ModelError with its reason. wanted: what it must answer, in words"""
    request = urllib.request.Request(url, json.dumps(question).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            return json.load(reply)
    except (OSError, HTTPException, ValueError) as error:
        raise ModelError(f"{url} gave no answer ({type(error).__name__}: {str(error)[:200]}), so the model cannot be audited. "
                         f"It must answer {wanted}.") from None


class ServedText(nn.Module):
    """A language model that gives texts alone: no logits, so no losses, and nothing that is made of them.

    address  …/v1, …/v1/completions or …/v1/chat/completions (then a prompt is the message of a user, in the template there)
    name     of the model, where the address serves several
    """

    def __init__(self, url: str, name: str = "") -> None:
        super().__init__()
        self.url, self.name = url.rstrip("/"), name
        self.chat = self.url.endswith("/chat/completions")
        if self.url.endswith("/v1"):
            self.url += "/completions"

    def forward(self, *given: object, **more: object) -> Tensor:
        raise ModelError(f"{self.url} gives texts, and this needs probabilities of tokens")

    get_output_embeddings = forward   # by which a language model is known: what asks for its head is told the same

    def texts(self, prompts: Sequence[str], most: int, temperature: float, top_p: float) -> list[str]:
        """A continuation of at most so many tokens of each prompt; temperature 0: the likeliest."""
        options = {"max_tokens": most, "temperature": temperature, "top_p": top_p, **({"model": self.name} if self.name else {})}
        wanted, found = '{"choices": [{"text": …}]}, or {"message": {"content": …}} of a chat', []
        for start in range(0, len(prompts), 1 if self.chat else BATCH):
            part = list(prompts[start : start + (1 if self.chat else BATCH)])
            words = {"messages": [{"role": "user", "content": part[0]}]} if self.chat else {"prompt": part}
            said = asked(self.url, {**words, **options}, wanted)
            try:
                choices = sorted(said["choices"], key=lambda one: int(one.get("index", 0)))
                found += [str(one["message"]["content"] if self.chat else one["text"]) for one in choices]
            except (KeyError, TypeError, ValueError, AttributeError):
                raise ModelError(f"{self.url} answers {str(said)[:80]!r}, so its texts cannot be read. It must answer "
                                 f"{wanted}.") from None
            if len(found) != start + len(part):
                raise ModelError(f"{self.url} answers {len(part)} prompts with {len(choices)} texts, so they cannot be told "
                                 "apart. It must give one text for each prompt.")
        return found


class Endpoint(nn.Module):
    """Asks an address for the outputs of a batch."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def forward(self, x: Tensor) -> Tensor:
        wanted = '{"inputs": […]} with {"outputs": […]}, one row of numbers for each example'
        said = asked(self.url, {"inputs": x.detach().cpu().tolist()}, wanted)
        try:
            outputs = torch.tensor(said["outputs"], dtype=torch.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{self.url} gave no outputs for {len(x)} examples ({type(error).__name__}: {str(error)[:200]}), so "
                             f"the model cannot be audited. It must answer {wanted}.") from None
        if outputs.dim() < 1 or len(outputs) != len(x):
            raise ModelError(f"{self.url} answers {len(x)} examples with {tuple(outputs.shape)} outputs, so they cannot be told "
                             "apart. It must give one row for each example.")
        return outputs.to(x.device)


class Scripted(nn.Module):
    """A TorchScript program, asked for answers alone: its quantised layers are no parameters and have no gradients."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = [program]   # in a list: a program cannot be copied or frozen as a module is

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            outputs: Tensor = self.program[0](x.detach().cpu())
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
