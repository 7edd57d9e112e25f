"""Language models in one GGUF file, as llama.cpp serves them: read by transformers, with the package `gguf`, into whole numbers.

Quantised weights are read as the values that they stand for, so that what is audited is what is served but for rounding of sums.
A GGUF file is data and runs no code. Its tokenizer is another form of the model's own: the folder from before has that one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from lethe.core.extras import needs_extra
from lethe.core.user_files import understood
from lethe.errors import ModelError

ENDING = ".gguf"


def is_gguf(path: str | Path) -> bool:
    """Whether a path is a GGUF file, by its name."""
    return Path(path).suffix.lower() == ENDING


def load_gguf(path: str | Path) -> nn.Module:
    """The causal language model in a GGUF file, in float32; ModelError for what cannot be read or is not whole."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.import_utils import is_gguf_available

    file = Path(path)
    if not file.is_file():
        raise ModelError(f"{file} is no file, so there is no model to load; nothing is downloaded. Correct the path.")
    if not is_gguf_available():
        raise needs_extra("gguf", f"{file}, a GGUF file,", "gguf", "it was not read")
    with understood(file, "a language model", "Convert it again with llama.cpp.", ModelError):
        made = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True,
                                                    trust_remote_code=False, dtype=torch.float32,
                                                    output_loading_info=True)
    model, report = cast("tuple[nn.Module, dict[str, Any]]", made)
    if absent := sorted(map(str, report["missing_keys"])):
        raise ModelError(f"{file} lacks {len(absent)} of the weights of a {type(model).__name__} ({', '.join(absent[:3])}), "
                         "which would be drawn at random; nothing was audited. Convert the whole model again.")
    return model.eval()
