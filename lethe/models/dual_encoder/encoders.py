"""How a pair of encoders is asked: CLIPModel of transformers and its kin, or any module with the two methods of open_clip.

    get_image_features(pixel_values), get_text_features(input_ids)       transformers
    encode_image(pixels), encode_text(tokens)                            open_clip, or code of your own

and `logit_scale`, the logarithm of the factor of cosines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.errors import ModelError, OutputShape

NAMES = {"image": ("get_image_features", "encode_image"), "text": ("get_text_features", "encode_text")}
LARGEST = math.log(100)   # of the scale in training                                               [CLIP, §2.5]


def _asked(model: nn.Module, tower: str) -> Callable[[Tensor], Any]:
    for name in NAMES[tower]:
        if callable(found := getattr(model, name, None)):
            asked: Callable[[Tensor], Any] = found
            return asked
    raise ModelError(f"{type(model).__name__} has neither {NAMES[tower][0]} nor {NAMES[tower][1]}, so its {tower} encoder cannot "
                     "be asked; nothing was started. Provide a CLIPModel of transformers, or a module with encode_image, "
                     "encode_text and logit_scale.")


def vectors(model: nn.Module, tower: str, given: Tensor) -> Tensor:
    """What an encoder makes of pixels [n, C, H, W] ("image") or token ids [n, L] ("text"), of length 1.  -> [n, d]"""
    found = _asked(model, tower)(given)
    found = getattr(found, "pooler_output", found)
    if not isinstance(found, Tensor) or found.dim() != 2:
        raise OutputShape(f"the {tower} encoder of {type(model).__name__} returns {type(found).__name__} "
                          f"{tuple(getattr(found, 'shape', ()))}, not one vector [n, d] for each input; nothing was started.")
    return F.normalize(found.float(), dim=-1)


def scale(model: nn.Module) -> Tensor:
    """The factor of cosines, at most 100.  -> []"""
    found = getattr(model, "logit_scale", None)
    if not isinstance(found, Tensor):
        raise ModelError(f"{type(model).__name__} has no logit_scale, the logarithm of the factor of cosines, so its logits are "
                         "not known. Give it one: self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07))).")
    return found.float().reshape(()).clamp(max=LARGEST).exp()


def require_one_width(model: nn.Module, pixels: Tensor, tokens: Tensor) -> None:
    """OutputShape unless both encoders end in vectors of one width."""
    with torch.no_grad():
        image, text = (vectors(model, tower, given) for tower, given in (("image", pixels), ("text", tokens)))
    if image.shape[1] != text.shape[1]:
        raise widths(image.shape[1], text.shape[1])


def widths(image: int, text: int) -> OutputShape:
    """The error for encoders that do not belong together."""
    return OutputShape(f"the encoders end in vectors of different widths, {image} for pictures and {text} for texts, so no "
                       "picture can be compared with a text; nothing was started. Provide the two encoders that were trained "
                       "together, with their projections.")


def contrast(image: Tensor, text: Tensor, factor: Tensor) -> Tensor:
    """½ (CE over texts + CE over pictures) of the pairs of a batch.  [n, d], [n, d], [] -> [n]

    Radford et al. 2021, arXiv:2103.00020. Unit vectors (1, 0), (0, 1) on both sides, factor ln 3: each row is (ln 3, 0), so every
    term is ln(4/3) = 0.28768.
    """
    logits = factor * image @ text.T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own, reduction="none") + F.cross_entropy(logits.T, own, reduction="none")) / 2
