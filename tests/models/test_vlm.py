"""A LLaVA beside the pair whose image encoder it took: that encoder alone moves, and the LLaVA's folder goes out as it came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models.test_dual_encoder import folder_of, pictures, request
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.errors import ModelError, RequestError
from lethe.models.dual_encoder.folder import load_pair
from lethe.models.dual_encoder.vlm import core, load_reader, save_reader


def llava(pair: Path, place: Path, layer: int = -1) -> Path:
    """A tiny LLaVA in several files of half precision, whose tower is the pair's, with a file that Lethe does not know."""
    import transformers

    clip: Any = load_pair(pair).model
    text = transformers.LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                                    vocab_size=60, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    model: Any = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(
        vision_config=clip.config.vision_config, text_config=text, image_token_index=59, vision_feature_layer=layer))
    tower = {core(name, ("vision_model.",)): value for name, value in clip.state_dict().items()}
    model.model.vision_tower.load_state_dict({name: value for name, value in tower.items() if name})
    model.half().save_pretrained(place, max_shard_size="20KB")
    (place / "README.md").write_text("a stranger's notes")
    return place


def tensors(place: Path) -> dict[str, Tensor]:
    return {name: value for file in sorted(place.glob("*.safetensors")) for name, value in load_file(file).items()}


def answers(place: Path, pixels: Tensor | None) -> Tensor:
    """The logits of a question with a picture (its sixteen places are token 59), or of one without."""
    import transformers

    model = transformers.LlavaForConditionalGeneration.from_pretrained(place, dtype=torch.float32).eval()
    ids = torch.tensor([[1, 5, *([59] * 16 if pixels is not None else []), 7, 9]])
    given = {} if pixels is None else {"pixel_values": pixels}
    with torch.no_grad():
        found: Tensor = model(input_ids=ids, **given).logits[:, -3:]
    return found


def test_a_tensor_that_moved_is_replaced_and_all_else_stays_byte_for_byte(tmp_path: Path) -> None:
    pair, place = folder_of(tmp_path / "pair"), tmp_path / "out"
    came, model, own = llava(pair, tmp_path / "llava"), load_pair(pair).model, "vision_model.encoder.layers.0.mlp.fc1.weight"
    with torch.no_grad():
        model.get_parameter(own).add_(1)
    save_reader(load_reader(came, load_pair(pair).model), model, place)
    before, after = tensors(came), tensors(place)
    (name,) = [name for name in before if not torch.equal(before[name], after[name])]
    assert core(name, ("vision_tower.",)) == core(own, ("vision_model.",))
    assert torch.equal(after[name], model.get_parameter(own).detach().half())
    changed = json.loads((came / "model.safetensors.index.json").read_text())["weight_map"][name]
    assert {file.name for file in place.iterdir()} == {file.name for file in came.iterdir()}
    assert all((place / file.name).read_bytes() == file.read_bytes() for file in came.iterdir() if file.name != changed)


@pytest.mark.slow
def test_a_llava_through_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers to texts stay bit for bit, and those to pictures do not."""
    monkeypatch.chdir(tmp_path)
    pair = folder_of(tmp_path / "pair")
    came = llava(pair, tmp_path / "llava")
    told = request(pair, pictures(tmp_path / "pictures"), pictures(tmp_path / "unseen", 24, 100))
    (tmp_path / "r.yaml").write_text(told.replace(f"folder: {pair}}}", f"folder: {pair}, vlm: {came}}}"))
    run = CliRunner().invoke(app, ["run", "r.yaml", "-q"], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    place = next(path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    saved = place / "models" / "slug_clip"
    went, before = tensors(saved / "vlm"), tensors(came)
    (name,) = [name for name in before if not torch.equal(before[name], went[name])]
    assert "vision_tower." in name and {value.dtype for value in went.values()} == {torch.float16}
    (own,) = [own for own, value in tensors(pair).items() if not torch.equal(value, tensors(saved)[own])]
    assert core(own, ("vision_model.",)) == core(name, ("vision_tower.",)) and torch.equal(tensors(saved)[own], went[name])
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(answers(came, None), answers(saved / "vlm", None))
    assert not torch.allclose(answers(came, pixels), answers(saved / "vlm", pixels), atol=1e-4)


def test_only_what_is_read_moves_and_another_tower_is_refused(tmp_path: Path) -> None:
    """Of one layer: state −1 is behind it, and state −2 before it."""
    pair = folder_of(tmp_path / "pair")
    model = load_pair(pair).model
    last, first = (load_reader(llava(pair, tmp_path / f"at{layer}", layer), model) for layer in (-1, -2))
    assert "vision_model.encoder.layers.0.mlp.fc1.weight" in last.moving - first.moving
    assert "vision_model.embeddings.patch_embedding.weight" in first.moving
    assert not any("post_layernorm" in name or "text" in name for name in last.moving)
    other = tmp_path / "at-1"
    file = next(file for file in sorted(other.glob("*.safetensors")) if any("fc1" in name for name in load_file(file)))
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="reads pictures by another encoder"):
        load_reader(other, model)
    for one in other.glob("*.safetensors"):
        save_file({f"no.{name[-9:]}": value for name, value in load_file(one).items()}, one, {"format": "pt"})
    with pytest.raises(ModelError, match="no weights of an image encoder"):
        load_reader(other, model)


def test_a_pair_that_is_trained_here_has_no_reader(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("family: dual_encoder\nmodel: {tiny: {}, vlm: there}\ndata: {shapes: 64}\n"
                                     "forget: {label: disk}\nmethod: slug_clip\n")
    told = CliRunner().invoke(app, ["run", str(tmp_path / "r.yaml"), "-q"])
    assert told.exit_code and isinstance(told.exception, RequestError | SystemExit)
    assert "Set model.folder" in (" ".join(told.output.split()) + str(told.exception))
