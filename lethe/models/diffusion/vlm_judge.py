"""A vision-language model that answers questions (LLaVA and relatives of transformers), from a local folder, as judge.

    L(c) = log p(yes | picture, "Does this picture show c?") − log p(no | the same)

p(yes) the sum over the tokens with which the tokenizer begins yes, Yes and YES, with a blank before or without. An answer stands
alone, where `word_judge` compares: the concept is seen where L(w) > 0 for one of its wordings w, what was asked where L(prompt)
is above 0 and that of any concept, and the rest r of a prompt that names the concept where L(r) > 0. It knows nothing of the
model that is audited; one that says yes to everything says so of retained prompts, too, which the page shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.concepts import without
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import device_of, evaluating
from lethe.core.user_files import understood
from lethe.errors import ModelError
from lethe.models.diffusion.word_judge import JudgeParts, WordJudge
from lethe.models.gallery import as_images
from lethe.models.source import refuse_pickle

QUESTION = "Does this picture show {}? Answer yes or no."
DESCRIBED = "Describe this picture."   # what is asked where only features are read
TOGETHER = 16                          # pictures at once
REMEDY = "Give a folder of LLaVA or another model that answers questions about a picture, or one of CLIP or SigLIP."


@dataclass(frozen=True, eq=False)
class Vlm(JudgeParts):
    """The parts of a folder: the model, what makes its input of pictures and texts, and the tokens of yes and of no."""

    model: nn.Module
    processor: Any
    yes: Tensor
    no: Tensor

    def judge(self, task: DiffusionTask) -> VlmJudge:
        return VlmJudge(task, self)

    def asked(self, images: Sequence[Any], question: str, **options: Any) -> Any:
        """What the model says after a question about each picture."""
        said, device = _written(self.processor, question), device_of(self.model)
        given = self.processor(images=list(images), text=[said] * len(images), return_tensors="pt")
        with evaluating(self.model):
            return self.model(**{name: value.to(device) for name, value in given.items()}, **options)

    def leaning(self, images: Sequence[Any], text: str) -> Tensor:
        """L of each picture.  -> [n]"""
        logits: Tensor = self.asked(images, QUESTION.format(text)).logits[:, -1].float().cpu()
        return logits[:, self.yes].logsumexp(1) - logits[:, self.no].logsumexp(1)


def answers(folder: str | Path) -> bool:
    """Whether a folder holds a model that answers with text; ModelError where transformers cannot tell."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    with understood(Path(folder), "a model that reads pictures", REMEDY, ModelError):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def load_vlm(folder: str | Path) -> Vlm:
    """The parts in a local folder, weights from safetensors in their own precision; asked once, so that it is known to answer.
    ModelError where it cannot judge."""
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    place = Path(folder)
    refuse_pickle(place)
    with understood(place, "a model that answers questions about pictures", REMEDY, ModelError):
        processor = AutoProcessor.from_pretrained(place, local_files_only=True)
        model: nn.Module = AutoModelForImageTextToText.from_pretrained(place, local_files_only=True, use_safetensors=True,
                                                                       dtype="auto").requires_grad_(False).eval()
        yes, no = (_beginnings(processor.tokenizer, word) for word in ("yes", "no"))
        both = sorted(set(yes) & set(no))
        if both:
            raise ModelError(f"the tokenizer of {place} begins yes and no with the same token ({both[0]}), so the model's answer "
                             f"cannot be read; nothing was started. {REMEDY}")
        parts = Vlm(model, processor, torch.tensor(yes), torch.tensor(no))
        parts.leaning([Image.new("RGB", (64, 64))], "a dog")
    return parts


def _beginnings(tokenizer: Any, word: str) -> list[int]:
    """The first tokens of the ways to write a word."""
    ways = (before + form for before in ("", " ") for form in (word, word.capitalize(), word.upper()))
    found = {tokenizer.encode(way, add_special_tokens=False)[0] for way in ways}
    return sorted(found - {tokenizer.unk_token_id})


def _written(processor: Any, question: str) -> str:
    """A question about one picture, as the model was taught to be asked."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        said: str = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return said
    return f"{getattr(processor, 'image_token', '<image>')}\n{question}"


class VlmJudge(WordJudge):
    """Pictures in the words of a model that was made elsewhere."""

    def __init__(self, task: DiffusionTask, vlm: Vlm) -> None:
        super().__init__(task)
        self.vlm = vlm

    def look(self, pixels: Tensor) -> Tensor:
        return pixels.float().cpu()

    def likelihoods(self, x: Tensor, prompts: Sequence[str]) -> Tensor:
        parts = [as_images(some) for some in x.split(TOGETHER)]
        return torch.stack([torch.cat([self.vlm.leaning(some, text) for some in parts]) for text in prompts])

    def embed(self, x: Tensor) -> Tensor:
        said = (self.vlm.asked(as_images(some), DESCRIBED, output_hidden_states=True) for some in x.split(TOGETHER))
        return torch.cat([one.hidden_states[-1].float().mean(1).cpu() for one in said])

    def _named(self, x: Tensor, prompt: str) -> dict[str, Tensor]:
        named = self.task.named(prompt)
        assert named is not None
        rest = without(prompt, self.task.wordings)
        told = self._told(x, [*named.wordings, *([rest] if rest else [])])
        shown = told[: len(named.wordings)].max(0).values > 0
        kept = told[-1] > 0 if rest else torch.zeros(len(x), dtype=torch.bool)
        return {"concept": torch.where(shown, self.names.index(named.concept), self._neither), "rest": (~kept).long()}

    def _unnamed(self, x: Tensor, prompt: str) -> dict[str, Tensor]:
        groups = [one.wordings for one in self.task.concepts]
        told = self._told(x, [*(word for group in groups for word in group), *([prompt] if prompt.strip() else [])])
        sizes = [len(group) for group in groups]
        gain, place = torch.stack([some.max(0).values for some in told[: sum(sizes)].split(sizes)]).max(0)
        asked = told[-1] > gain.clamp(min=0) if prompt.strip() else torch.zeros(len(x), dtype=torch.bool)
        return {"concept": torch.where(asked, len(groups), torch.where(gain > 0, place, self._neither))}
