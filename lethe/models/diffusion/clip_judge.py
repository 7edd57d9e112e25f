"""A model that compares pictures with texts (CLIP, SigLIP and relatives of transformers), from a local folder, as judge.

L(c) = scale · cos(picture, text c), what such a model takes for the logarithm of how likely they belong together; the empty
prompt is asked as "a picture". What follows of it stands in `word_judge`. It knows nothing of the model that is audited, but
what its own training taught it: concepts that it cannot name, it cannot find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import device_of, evaluating
from lethe.core.user_files import understood
from lethe.errors import ModelError
from lethe.models.diffusion.word_judge import JudgeParts, WordJudge
from lethe.models.gallery import as_images
from lethe.models.source import refuse_pickle

NOTHING = "a picture"    # stands for the empty prompt
TOGETHER = 64            # pictures at once


@dataclass(frozen=True, eq=False)
class Clip(JudgeParts):
    """The parts of a folder: the model, its tokenizer, and what makes its input of pictures."""

    model: nn.Module
    tokenizer: Any
    processor: Any

    def judge(self, task: DiffusionTask) -> ClipJudge:
        return ClipJudge(task, self)


def load_clip(folder: str | Path) -> Clip:
    """The parts in a local folder, weights from safetensors. ModelError where it holds another kind of model."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    place = Path(folder)
    refuse_pickle(place)
    with understood(place, "a model that compares pictures with texts", "Give a folder of CLIP or SigLIP.", ModelError):
        config = AutoConfig.from_pretrained(place, local_files_only=True)
        if not (hasattr(config, "text_config") and hasattr(config, "vision_config")):
            raise ModelError(f"{place} holds a {config.model_type}, which does not compare pictures with texts, so it cannot "
                             "judge; nothing was started. Give a folder of CLIP or SigLIP, or a classifier of your own: "
                             "judge: file.py:function.")
        model: nn.Module = AutoModel.from_pretrained(place, local_files_only=True, use_safetensors=True, dtype=torch.float32)
        return Clip(model.requires_grad_(False).eval(), AutoTokenizer.from_pretrained(place, local_files_only=True),
                    AutoImageProcessor.from_pretrained(place, local_files_only=True))


class ClipJudge(WordJudge):
    """Pictures beside texts, in the eyes of a model that was made elsewhere."""

    def __init__(self, task: DiffusionTask, clip: Clip) -> None:
        super().__init__(task)
        self.clip = clip

    def look(self, pixels: Tensor) -> Tensor:
        seen: Tensor = self.clip.processor(images=as_images(pixels), return_tensors="pt")["pixel_values"]
        return seen

    def likelihoods(self, x: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.cat([said.logits_per_text.float().cpu() for said in self._asked(x, prompts)], 1)

    def embed(self, x: Tensor) -> Tensor:
        return torch.cat([said.image_embeds.float().cpu() for said in self._asked(x, [""])])

    def _asked(self, x: Tensor, prompts: Sequence[str]) -> list[Any]:
        model = self.clip.model
        device = device_of(model)
        texts = self.clip.tokenizer([text or NOTHING for text in prompts], padding=True, truncation=True, return_tensors="pt")
        given = {name: value.to(device) for name, value in texts.items() if name in ("input_ids", "attention_mask")}
        with evaluating(model):
            return [model(pixel_values=some.to(device), **given) for some in x.split(TOGETHER)]
