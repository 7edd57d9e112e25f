"""Maps of cross-attention: what the layer itself weighs its values by, on every kind that has such layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusion_folders import FOLDERS
from tiny import TASKS

from lethe.errors import RequestError
from lethe.models.diffusion.files import load_pipeline
from lethe.models.diffusion.maps import sides
from lethe.models.diffusion.open import text_to_image


def test_places_are_shaped_as_the_picture() -> None:
    assert sides(32, 16, 8) == (8, 4) and sides(16, 8, 7) == (4, 4) and sides(3, 3, 1) == (3, 1)


@pytest.mark.parametrize("kind", ["stable", "sdxl", "pixart"])
def test_a_map_times_the_values_is_what_the_layer_says(kind: str, tmp_path: Path) -> None:
    FOLDERS[kind](tmp_path)
    task = text_to_image(load_pipeline(tmp_path), "a red disk", ["a red cross"], ["a red disk"], per_prompt=2, steps=2)
    text = task.text(task.tokens(["a red disk", "a blue cross"]))
    x, t = torch.randn(2, *task.shape, generator=torch.Generator().manual_seed(0)), torch.tensor([500, 20])
    name = list(task._denoiser.crossings(task.original))[-1]
    layer: Any = task.original.get_submodule(name)
    said: dict[str, Any] = {}
    handles = [layer.register_forward_hook(lambda _, __, out: said.update(out=out)),
               layer.to_v.register_forward_hook(lambda _, __, out: said.update(values=out))]
    plain = task.predict(task.original, x, t, text)
    answer, maps = task.attention_maps(task.original, x, t, text)
    for handle in handles:
        handle.remove()
    assert torch.equal(answer, plain) and maps[name].shape[:2] == (2, layer.heads)
    assert torch.allclose(maps[name].sum(-1), torch.ones(()), atol=1e-5)
    values = said["values"].unflatten(2, (layer.heads, -1)).transpose(1, 2)                     # [n, heads, L, d]
    mixed = (maps[name].flatten(2, 3) @ values).transpose(1, 2).flatten(2)
    assert torch.allclose(layer.to_out[0](mixed), said["out"], atol=1e-5)
    assert not layer._forward_pre_hooks


def test_tokens_of_the_concept_are_found_by_their_letters(tmp_path: Path) -> None:
    task: Any = TASKS["diffusion"]()      # a word it knows is one token, others are spelled; the first place is the start
    found = task.named_tokens(["a red disk", "disk", "a red cross", "", "DISKS a"])
    assert [row.nonzero().flatten().tolist() for row in found] == [[3], [1], [], [], [1, 2, 3]]
    FOLDERS["pixart"](tmp_path)
    other = text_to_image(load_pipeline(tmp_path), "disk", ["a red cross"], ["a red disk"], per_prompt=2, steps=2)
    assert other.named_tokens(["a red disk"]).nonzero().tolist() == [[0, 2]]   # no start token


@pytest.mark.parametrize("kind", ["sd3", "dit"])
def test_kinds_without_cross_attention_say_so(kind: str, tmp_path: Path) -> None:
    FOLDERS[kind](tmp_path)
    task = text_to_image(load_pipeline(tmp_path), "a red disk", ["a red cross"], ["a red disk"], per_prompt=2, steps=2)
    assert "attention_maps" not in task.serves and task.unserved(["attention_maps"])
    with pytest.raises(RequestError, match="no layers of cross-attention"):
        task.attention_maps(torch.nn.Linear(1, 1), torch.zeros(1, 4, 8, 8), torch.zeros(1), torch.zeros(1, 2, 3))
