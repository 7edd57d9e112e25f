"""A folder written by `save_pretrained` of a dual encoder, and how it goes out again: copied, with what moved replaced."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.extras import needs_extra
from lethe.core.user_files import understood
from lethe.errors import ModelError
from lethe.models.dual_encoder import encoders
from lethe.models.dual_encoder.pictures import Eye
from lethe.models.source import Source, copy_with, variant_of

LONGEST = 1024   # tokens, where a tokenizer names no limit


@dataclass
class Pair:
    """Two encoders with what they read by. `source`: the folder they came in; None: made in memory."""

    model: nn.Module
    tokenizer: Any
    eye: Eye
    source: Source | None = None


def token_ids(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Token ids of texts, cut or padded to one length; of open_clip's tokenizers, too, which are functions.  -> [n, L]"""
    if not hasattr(tokenizer, "model_max_length"):
        made: Tensor = tokenizer(list(texts))
        return made
    ids: Tensor = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt",
                            max_length=min(tokenizer.model_max_length, LONGEST)).input_ids
    return ids


def require_transformers() -> Any:
    """The transformers module, or an error that names the extra."""
    try:
        import transformers
    except ImportError:
        raise needs_extra("lm", "a dual encoder", "transformers", "it was not opened") from None
    return transformers


def load_pair(folder: Path) -> Pair:
    """The pair in a local folder: config.json, safetensors, a tokenizer; in float32. Nothing is downloaded and no code is run."""
    transformers = require_transformers()
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json, so there is no pair of encoders to load; nothing was started. Provide a "
                         "folder written by CLIPModel.save_pretrained.")
    source = Source(folder, "", variant_of(folder))
    with understood(folder, "a dual encoder", "Save it again: model.save_pretrained(…).", ModelError):
        model, told = transformers.AutoModel.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, dtype=torch.float32,
            variant=source.variant or None, output_loading_info=True, ignore_mismatched_sizes=True)
    require_whole(folder, model, told)
    with understood(folder, "a tokenizer", "Save it into the folder: tokenizer.save_pretrained(…).", ModelError):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    vision = model.config.vision_config
    return Pair(model.eval(), tokenizer, Eye.of(folder, int(vision.image_size), int(vision.num_channels)), source)


def require_whole(folder: Path, model: nn.Module, told: Mapping[str, Any]) -> None:
    """ModelError unless the folder holds all weights of two encoders that end in one width."""
    written = _widths(folder)
    if len(set(written.values())) > 1:
        raise encoders.widths(written["image"], written["text"])
    for name in ("get_image_features", "get_text_features", "logit_scale"):
        if not hasattr(model, name):
            raise ModelError(f"{folder} is a {type(model).__name__}, which has no {name}: it is no pair of encoders that was "
                             "trained by contrast, so nothing was started. Provide the folder of a CLIPModel.")
    absent = sorted({*map(str, told["missing_keys"]), *(str(entry[0]) for entry in told["mismatched_keys"])})
    if absent:
        raise ModelError(f"{folder} lacks {len(absent)} of the weights of a {type(model).__name__}, or has them in other shapes "
                         f"({', '.join(absent[:3])}), so they would be drawn at random; nothing was started. Provide the whole "
                         "folder.")


def _widths(folder: Path) -> dict[str, int]:
    """Rows of the two projections in the files of weights, by tower."""
    from safetensors import safe_open

    found: dict[str, int] = {}
    for file in folder.glob("*.safetensors"):
        with understood(file, "weights", "Copy the file again.", ModelError), safe_open(str(file), "pt") as handle:
            for name in handle.keys():  # noqa: SIM118 (a handle is no mapping)
                for tower, key in (("image", "visual_projection.weight"), ("text", "text_projection.weight")):
                    if name == key:
                        found[tower] = int(handle.get_slice(name).get_shape()[0])
    return found


def save_pair(pair: Pair, model: nn.Module, folder: Path) -> None:
    """The folder as it came, with what moved replaced; of a pair made in memory what its own library writes."""
    if pair.source is not None:
        copy_with(pair.source, model, folder)
        return
    written: Any = model
    if not hasattr(model, "save_pretrained"):
        from safetensors.torch import save_model

        save_model(model, str(folder / "model.safetensors"))
        return
    written.save_pretrained(folder)
    if hasattr(pair.tokenizer, "save_pretrained"):
        pair.tokenizer.save_pretrained(folder)
    eye = pair.eye
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": eye.side},
        "do_center_crop": True, "crop_size": {"height": eye.side, "width": eye.side}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(eye.mean), "image_std": list(eye.std),
        "resample": 2}, indent=2) + "\n", encoding="utf-8")


def rounded(pair: Pair, model: nn.Module) -> nn.Module:
    """The model rounded to the precision of the files that it goes out in, in place."""
    types = {} if pair.source is None else pair.source.dtypes()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if types.get(name, value.dtype) != value.dtype:
                value.copy_(value.to(types[name]))
    return model


