"""Every option of every small model counts: another value gives another network."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn
from values import companions, counts, others

from lethe.core import catalogue
from lethe.core.source_text import Option

OPTIONS = [pytest.param(name, option, id=f"{name}-{option.name}")
           for name, entry in catalogue.entries("zoo").items() for option in entry.options if option.name != "folder"]

INPUTS = {"vit": torch.linspace(0, 1, 64).view(1, 1, 8, 8), "text_encoder": torch.arange(1, 7).view(1, 6)}   # of the usual size


def shape(name: str, options: dict[str, Any]) -> str | None:
    """The network in words, the shapes of its weights, what it answers; None where it cannot be made."""
    try:
        torch.manual_seed(0)
        model: nn.Module = catalogue.load("zoo", name)(**options)
    except (ValueError, RuntimeError, ZeroDivisionError):
        return None
    said: Any = ""
    with suppress(RuntimeError):   # another size of inputs
        said = model.eval()(INPUTS[name]).tolist() if name in INPUTS else ""
    return f"{model} {[tuple(p.shape) for p in model.parameters()]} {said}"


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_another_value_gives_another_network(name: str, option: Option) -> None:
    base = companions(option.comment)
    factory = catalogue.load("zoo", name)
    made: Any = factory.__dict__["__init__"] if isinstance(factory, type) else factory
    hint = get_type_hints(made)[option.name]
    default = ast.literal_eval(option.default)
    usual = shape(name, base)
    assert usual is not None

    def tried(where: str) -> Iterator[tuple[Any, bool]]:
        for value in others(hint, base.get(option.name, default), option.comment):
            other = shape(name, {**base, option.name: value})
            if other is not None:
                yield value, other != usual

    counts(name, option, tried, default)


def test_an_encoder_comes_from_its_folder(tmp_path: Path) -> None:
    kept = catalogue.load("zoo", "text_encoder")(vocabulary=20, width=8, layers=1)
    kept.encoder.save_pretrained(tmp_path)
    made = catalogue.load("zoo", "text_encoder")(folder=str(tmp_path))
    for name, value in kept.encoder.state_dict().items():
        assert torch.equal(made.encoder.state_dict()[name], value), name
