"""A judge from elsewhere: a local folder that compares pictures with texts, or a classifier of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lethe.core import trust
from lethe.errors import ModelError, RequestError
from lethe.models.diffusion.clip_judge import Clip, ClipJudge, load_clip
from lethe.models.diffusion.open import text_to_image
from lethe.models.diffusion.small import pipeline, tokenizer

LETTERS = {"disk": 0, "cross": 1, "square": 2, "red": 3}


class Knows(nn.Module):
    """Pictures whose value at a place stands for a word; of texts it counts these words."""

    def __init__(self, words: Any) -> None:
        super().__init__()
        self.ids = [words.convert_tokens_to_ids(f"{word}</w>") for word in LETTERS]
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        shown = pixel_values.flatten(1)[:, : len(LETTERS)]
        said = torch.stack([(input_ids == place).any(1) for place in self.ids], 1).float()
        return type("Said", (), {"logits_per_text": self.scale * said @ shown.T, "image_embeds": shown})()


def processed(images: list[Any], return_tensors: str) -> dict[str, torch.Tensor]:
    arrays = torch.stack([torch.tensor(list(image.split()[0].tobytes()), dtype=torch.float32) for image in images])
    return {"pixel_values": arrays / 127.5 - 1}


def picture(*words: str) -> torch.Tensor:
    flat = torch.full((64,), -1.0)
    flat[[LETTERS[word] for word in words]] = 1.0
    return flat.view(1, 8, 8).expand(3, 8, 8)


def test_it_tells_which_of_several_concepts_a_picture_shows() -> None:
    words = tokenizer(length=16)
    clip = Clip(Knows(words), words, processed)
    task = text_to_image(pipeline(width=16), ["disk", "cross"], ["a red square"], judge=clip, per_prompt=2, steps=2, guidance=1.0)
    assert isinstance(task.judge, ClipJudge) and task.has("judge")
    pixels = torch.stack([picture("disk", "red"), picture("red"), picture("cross"), picture("red", "square"), picture("cross")])
    seen = task.judge.read(pixels, ["a red disk", "a red disk", "a cross", "a red square", "a red square"])
    assert seen["concept"].tolist() == [0, 3, 1, 2, 1] and seen["rest"].tolist()[:2] == [0, 0]
    assert task.shown(seen).tolist() == [True, False, True, False, True]
    assert task.judge.features(pixels).shape == (5, len(LETTERS))


def test_it_asks_nothing_twice_and_for_features_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A concept that is asked by its name alone leaves an empty rest, which is the empty prompt."""
    words, asked = tokenizer(length=16), []
    task = text_to_image(pipeline(width=16), "disk", ["a red square"], judge=Clip(Knows(words), words, processed), per_prompt=2,
                         steps=2, guidance=1.0)
    judge, plain, embed = task.reader, ClipJudge.likelihoods, ClipJudge.embed
    monkeypatch.setattr(ClipJudge, "likelihoods", lambda self, x, prompts: asked.append(list(prompts)) or plain(self, x, prompts))
    monkeypatch.setattr(ClipJudge, "embed", lambda self, x: asked.append(["features"]) or embed(self, x))
    pixels = torch.stack([picture("disk"), picture("red", "square"), picture("cross")])
    seen = judge.read(pixels, ["disk", "a red square", ""])
    assert asked == [["disk", ""], ["disk", "", "a red square"], ["disk", ""]] and seen["concept"].tolist() == [0, 1, 2]
    assert judge.features(pixels).shape == (3, len(LETTERS)) and asked[3:] == [["features"]]


def test_a_folder_comes_in_and_another_kind_is_refused(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, LlamaConfig

    words = tokenizer(length=16)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = {**small, "vocab_size": len(words), "max_position_embeddings": 16, "eos_token_id": words.eos_token_id}
    CLIPModel(CLIPConfig(text_config=text, vision_config={**small, "image_size": 8, "patch_size": 4},
                         projection_dim=8)).save_pretrained(tmp_path / "clip")
    words.save_pretrained(tmp_path / "clip")
    CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}).save_pretrained(tmp_path / "clip")
    task = text_to_image(pipeline(width=16), "disk", ["a red square"], judge=load_clip(tmp_path / "clip"), per_prompt=2, steps=2,
                         guidance=1.0)
    assert task.reader.features(picture("disk")[None]).shape == (1, 8)
    LlamaConfig().save_pretrained(tmp_path / "llama")
    with pytest.raises(ModelError, match="does not compare pictures with texts"):
        load_clip(tmp_path / "llama")


def test_a_classifier_of_one_s_own_judges_what_it_knows(tmp_path: Path) -> None:
    from lethe.models.diffusion.open import _judge

    code = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), "
    (tmp_path / "mine.py").write_text(f"{code}{ {'shape': ['disk', 'cross']} }\ndef wrong():\n    return 3\n")
    trust.allow(tmp_path)
    judge = _judge(f"{tmp_path}/mine.py:make")
    made = text_to_image(pipeline(width=16), "disk", ["a cross"], judge=judge, per_prompt=2, steps=2, guidance=1.0)
    assert made.judge is judge and made.has("judge")
    with pytest.raises(RequestError, match=r"the judge knows no 'dsik' \(did you mean disk\?\).*It knows: disk, cross"):
        text_to_image(pipeline(width=16), "dsik", ["a cross"], judge=judge)
    with pytest.raises(RequestError, match="Return"):
        _judge(f"{tmp_path}/mine.py:wrong")
