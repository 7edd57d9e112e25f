"""A judge that answers questions in words: a LLaVA folder made here, and answers that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from lethe.errors import ModelError
from lethe.models.diffusion.open import _judge, text_to_image
from lethe.models.diffusion.small import pipeline
from lethe.models.diffusion.vlm_judge import DESCRIBED, QUESTION, Vlm, VlmJudge, answers, load_vlm
from lethe.models.lm.small import train_tokenizer

SHOWN = {"disk": 0, "cross": 1, "red": 2, "square": 3, "ball": 4}   # a word and the pixel that stands for it


class Known(Vlm):
    """Says yes where the pixel of every known word is lit, surer the more words there are."""

    def leaning(self, images: Any, text: str) -> Tensor:
        places = {SHOWN[word] for word in text.split() if word in SHOWN}
        lit = [{place for place in range(5) if image.getpixel((place, 0))[0] > 127} for image in images]
        return torch.tensor([1.0 + len(places) if places and places <= found else -1.0 for found in lit])


def picture(*words: str) -> Tensor:
    flat = torch.full((64,), -1.0)
    flat[[SHOWN[word] for word in words]] = 1.0
    return flat.view(1, 8, 8).expand(3, 8, 8)


def test_answers_stand_alone() -> None:
    """A disk is seen whatever its colour, under each of its names, and beside what was asked the surer answer counts."""
    vlm = Known(nn.Identity(), None, torch.tensor([0]), torch.tensor([1]))
    task = text_to_image(pipeline(width=16), [{"concept": "disk", "synonyms": ["ball"]}, "cross"], ["a red square"], judge=vlm,
                         per_prompt=2, steps=2, guidance=1.0)
    assert isinstance(task.judge, VlmJudge)
    pixels = torch.stack([picture("disk"), picture("ball", "red"), picture("cross"), picture("red", "square"), picture("cross"),
                          picture("ball", "square"), picture("red", "ball"), picture("red")])
    prompts = ["a red disk", "a red ball", "cross", "a red square", "a red square", "square", "", ""]
    seen = task.judge.read(pixels, prompts)
    assert seen["concept"].tolist() == [0, 0, 1, 2, 1, 0, 0, 3]   # 2: what was asked, 3: neither; at a tie the concept
    assert seen["rest"].tolist()[:3] == [1, 0, 1]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("vlm") / "llava"
    words = train_tokenizer([QUESTION.format("a dog"), DESCRIBED, "yes Yes YES no No NO", " yes Yes YES no No NO"] * 9, 300)
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=8, patch_size=4), vision_feature_layer=-1,
        text_config=LlamaConfig(**small, num_key_value_heads=1, vocab_size=len(words), max_position_embeddings=128),
        image_token_index=words.convert_tokens_to_ids("<image>"), image_seq_length=4)
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(place)
    pixels = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    LlavaProcessor(pixels, words, patch_size=4, vision_feature_select_strategy="default", image_token="<image>",
                   num_additional_image_tokens=1).save_pretrained(place)
    return place


def test_a_folder_answers_by_the_odds_of_its_next_token(llava: Path) -> None:
    vlm = _judge(str(llava))
    assert isinstance(vlm, Vlm) and answers(llava) and len(vlm.yes) >= 3 and not set(vlm.yes.tolist()) & set(vlm.no.tolist())
    image = Image.new("RGB", (8, 8), (200, 30, 90))
    p = vlm.asked([image], QUESTION.format("a disk")).logits[0, -1].softmax(0)
    odds = p[vlm.yes].sum().log() - p[vlm.no].sum().log()
    assert torch.allclose(vlm.leaning([image, image], "a disk"), odds.expand(2), atol=1e-5)
    assert not torch.allclose(vlm.leaning([image], "a disk"), vlm.leaning([image], "a cross"))
    task = text_to_image(pipeline(width=16), "disk", ["a red square"], judge=vlm, per_prompt=2, steps=2, guidance=1.0)
    pixels = torch.rand(3, 3, 8, 8) * 2 - 1
    assert task.reader.features(pixels).shape == (3, 8) and task.reader.read(pixels, ["a red disk"] * 3)["concept"].shape == (3,)


def test_a_chat_template_is_followed(llava: Path) -> None:
    vlm = load_vlm(llava)
    image, plain = Image.new("RGB", (8, 8)), vlm.leaning([Image.new("RGB", (8, 8))], "a disk")
    vlm.processor.chat_template = ("{% for message in messages %}ask {% for part in message.content %}{% if part.type == 'image' "
                                   "%}<image>{% else %}{{ part.text }}{% endif %}{% endfor %} tell{% endfor %}")
    assert not torch.allclose(vlm.leaning([image], "a disk"), plain)


def test_what_cannot_answer_is_refused(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lethe.models.diffusion.vlm_judge._beginnings", lambda tokenizer, word: [3])
    with pytest.raises(ModelError, match="begins yes and no with the same token"):
        load_vlm(llava)
    with pytest.raises(ModelError, match=r"cannot be read as a model that reads pictures.*CLIP or SigLIP"):
        _judge(str(tmp_path))
