"""What searches for adversarial prompts have in common: the vocabulary, and whether what is drawn shows the concept."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from lethe.core.families.diffusion import DiffusionTask, encoder_of
from lethe.errors import NeedsUnmet


def require_one_encoder(task: DiffusionTask) -> None:
    """NeedsUnmet where the network reads more than the states of one CLIP encoder: a prefix is tokens of one vocabulary."""
    tokens = task.tokens([""])
    parts = task.pipeline
    alone = not any(name.startswith("text_encoder") for name in parts.others)
    if not alone or parts.tokenizer.bos_token_id is None or task.text(tokens).shape[1] != tokens.shape[1]:
        raise NeedsUnmet("the network reads more than the states of one CLIP text encoder, and this attack searches tokens of "
                         "one vocabulary, so no prompt was searched. Use concept_inversion, which searches states instead.")


def table(task: DiffusionTask, model: nn.Module) -> Tensor:
    """The text encoder's token embeddings.  -> [V, d]"""
    weight: Tensor = encoder_of(task, model).get_input_embeddings().weight.detach()
    return weight


def shown(task: DiffusionTask, model: nn.Module, text: Tensor, seed: int) -> np.ndarray:
    """1 for each picture drawn for these text states that shows the concept.  [n, L, d] -> [n]"""
    seen = task.reader.read(task.decode(task.draw_from(model, text.detach(), seed)))
    return task.shown(seen).double().numpy()
