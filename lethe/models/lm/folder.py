"""Language models in `save_pretrained` folders: found fit or refused in a sentence, loaded, and written as they came.

No code of a folder is run and nothing is downloaded. What cannot be trusted is refused: weights that the folder does not hold
(transformers would draw them at random), pickles, and models whose answers depend on later tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from lethe.core.extras import needs_extra
from lethe.core.guard import Guard
from lethe.core.modules import evaluating
from lethe.core.user_files import reason, text_of, understood
from lethe.errors import ModelError, PickleRefused, RequestError
from lethe.models import adapter as lora
from lethe.models.lm import decoder
from lethe.models.lm.small import Attention
from lethe.models.weights import halved

Precision = Literal["float32", "own", "bfloat16", "float16"]  # own: the type in which the folder holds its weights
LARGEST = 2**26        # bytes of a config.json or an index of shards
PROBE = 8              # tokens of the sequence that shows whether a model is causal
LEAK = {torch.float32: 1e-4, torch.float64: 1e-4}   # most that earlier logits may move, in parts of what the last ones do
LEAK_HALF = 2e-2       # the same in half precision, where mixtures round differently when tokens change their expert


@dataclass(frozen=True)
class LoadedFolder:
    """A model, the parameters and buffers that its folder holds in half precision (name -> type), the folder, and that of the
    adapter on it, where there is one."""

    model: nn.Module
    types: Mapping[str, torch.dtype] = field(default_factory=dict)
    source: str | None = None
    adapter: Path | None = None


def load_folder(path: str | Path, attention: Attention = "auto", dtype: Precision = "float32", base: str | Path | None = None
                ) -> nn.Module:
    """A causal language model from a local `save_pretrained` folder, see `read_folder`. base: of an adapter."""
    path = Path(path)
    return (read_folder(base, attention, dtype, path) if base is not None and lora.is_adapter(path) else
            read_folder(path, attention, dtype)).model


def read_folder(path: str | Path, attention: Attention = "auto", dtype: Precision = "float32", adapter: str | Path | None = None
                ) -> LoadedFolder:
    """A causal language model from a local `save_pretrained` folder. Safetensors only; no code of the folder is run.

    path       the folder, or that of a LoRA adapter whose base is a folder here
    attention  auto | sdpa | eager; second derivatives on CPU need eager
    dtype      of the weights in memory; `own`: as the folder holds them
    adapter    the folder of a LoRA adapter that PEFT has saved: it goes on the model

    Raises ModelError, which says what the folder is instead, and PickleRefused.
    """
    path, adapter = Path(path), Path(adapter) if adapter is not None else None
    if adapter is None and lora.is_adapter(path):
        path, adapter = lora.base_of(path), path
    folder = _model_folder(path)
    settings = _settings(folder)
    whole: dict[str, Any] = {} if attention == "auto" else {"attn_implementation": attention}
    if getattr(settings, "quantization_config", None) is not None:
        whole["device_map"] = {"": "cpu"}   # its package would put it where it finds a device
    loader = _loader(folder, settings)
    try:
        with understood(folder, "a language model", "Save it again: model.save_pretrained(…).", ModelError):
            made = loader.from_pretrained(folder, config=settings, use_safetensors=True, trust_remote_code=False,
                                          local_files_only=True, dtype=_own_type(folder), output_loading_info=True, **whole)
    except ModelError as error:
        raise _quantised(folder, settings, error) or error from error.__cause__
    model, report = cast("tuple[nn.Module, dict[str, Any]]", made)
    _require_whole(folder, _made(settings), model, report)
    for module in model.modules():   # of bitsandbytes: packs its codes anew when it is first asked, and rounds their scales
        if hasattr(module, "support_avx512bf16_for_cpu"):
            cast(Any, module).support_avx512bf16_for_cpu = False
    types = halved(model)
    if dtype != "own":   # what is computed anew when a model is made (tables of angles, some of them complex) stays as it is
        for value in model.state_dict(keep_vars=True).values():
            if value.is_floating_point():
                value.data = value.data.to(getattr(torch, dtype))
    if adapter is not None:
        model, types = lora.attached(model, adapter)   # the base goes out to nobody
    require_causal(model, str(folder))
    return LoadedFolder(model, types, str(folder.absolute()), adapter)


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer of such a folder."""
    folder = Path(path) if lora.is_adapter(Path(path)) else _model_folder(path)
    if (folder / "config.json").exists():
        _json(folder / "config.json")   # a damaged one is no fault of the tokenizer, which reads it, too
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise needs_extra("lm", "a language model", "transformers", "it was not read") from None
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:   # readers of damaged files raise anything
        raise ModelError(f"{folder} holds no tokenizer that can be read ({reason(error)}), so no text can be "
                         "turned into what the model reads. Save the model's own tokenizer into the folder: "
                         "tokenizer.save_pretrained(…).") from error


def recomputing(model: nn.Module) -> nn.Module:
    """The model, which computes what is inside its blocks again in the backward pass of a training, copies of it too, so that a
    training keeps the blocks' inputs alone. RequestError where it cannot."""
    inner: Any = model
    if not getattr(inner, "supports_gradient_checkpointing", False):
        raise RequestError(f"model.checkpointing is set, but a {type(model).__name__} cannot recompute its activations; "
                           "nothing was started. Leave it out.")
    switch = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable   # its older name
    switch({"use_reentrant": False})
    return model


def require_causal(model: nn.Module, name: str) -> None:
    """ModelError when the logits of a token depend on the tokens behind it: the model is no decoder.

    The last of eight tokens is changed; what is predicted at the others must stay.
    """
    if isinstance(model, Guard):   # it answers as a whole
        return
    size = len(cast("torch.Tensor", decoder.head(model).weight))
    first = (torch.arange(3, 3 + PROBE) % size).unsqueeze(0)
    other = first.clone()
    other[0, -1] = (other[0, -1] + size // 2) % size
    device = next(model.parameters()).device
    with evaluating(model):
        before, after = (model(input_ids=ids.to(device), use_cache=False).logits.float() for ids in (first, other))
    moved = (before - after).abs().amax(-1)[0]
    if moved[:-1].max() > LEAK.get(next(model.parameters()).dtype, LEAK_HALF) * moved[-1]:
        raise ModelError(f"{name} is a {type(model).__name__} that reads a text in both directions: what it predicts for a token "
                         "depends on the tokens behind it, so probabilities of answers would mean nothing. Provide a model that "
                         "was trained to predict the next token.")


@contextmanager
def in_types(model: nn.Module, types: Mapping[str, torch.dtype]) -> Iterator[nn.Module]:
    """Inside, the weights have the types in which their folder held them; then those that they have now."""
    changed: list[tuple[torch.Tensor, torch.dtype]] = []
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if (kind := types.get(name)) is not None and kind != value.dtype:
            changed.append((value, value.dtype))
            value.data = value.data.to(kind)
    try:
        yield model
    finally:
        for value, kind in changed:
            value.data = value.data.to(kind)


def _model_folder(path: str | Path) -> Path:
    """The folder, if it holds a model whose weights are safetensors and complete."""
    path = Path(path)
    if not path.is_dir():
        raise ModelError(f"{path} is not a folder, so there is no model to load; nothing is downloaded. Pass a local "
                         "folder written by save_pretrained.")
    if not (path / "config.json").exists():
        raise ModelError(f"{path} has no config.json, so the architecture is unknown. Provide a folder written by "
                         "save_pretrained.")
    shards = list(path.glob("*.safetensors"))
    pickled = [file.name for ending in ("*.bin", "*.pt", "*.pth") for file in path.glob(ending)]
    if pickled and not shards:
        raise PickleRefused(f"{path} has its weights only as {pickled[0]}, a pickle, which can run any code when it is "
                            "loaded; it was not opened. Convert it where you trust it: model.save_pretrained(folder) "
                            "writes safetensors.")
    if (index := path / "model.safetensors.index.json").exists():
        wanted = sorted(set(map(str, dict(_json(index).get("weight_map") or {}).values())))
        missing = [name for name in wanted if not (path / name).is_file()]
        if missing:
            raise ModelError(f"{path} lacks {len(missing)} of the {len(wanted)} files of its weights ({missing[0]}), so the "
                             "model is incomplete; nothing was loaded. Copy the folder again.")
    elif not shards:
        raise ModelError(f"{path} holds no weights, so there is nothing to unlearn. Provide a folder with model.safetensors.")
    return path


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the folder."""
    text = text_of(path, "model.folder", LARGEST, ModelError)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON ({reason(error)}), so the model cannot be read. Copy it again.") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no JSON object, so the model cannot be read. Copy it again.")
    return found


def _settings(folder: Path) -> Any:
    """The configuration; ModelError for an architecture that transformers does not know, or knows as no decoder."""
    try:
        from transformers import CONFIG_MAPPING, AutoConfig
    except ImportError:
        raise needs_extra("lm", "a language model", "transformers", "it was not read") from None

    written = _json(folder / "config.json")
    kind, made = written.get("model_type"), (written.get("architectures") or ["?"])[0]
    if kind not in CONFIG_MAPPING:
        if written.get("auto_map"):
            raise ModelError(f"{folder} brings code of its own ({made}, model_type {kind!r}), and code of a folder is not run, "
                             "so the model cannot be loaded. Use a release of transformers that has the architecture, or load it "
                             "yourself and pass the object: lethe.language_model(model, tokenizer, …).")
        raise ModelError(f"{folder} is a {made} with model_type {kind!r}, which this release of transformers does not know, so "
                         "it cannot be loaded. Update transformers, or correct config.json.")
    with understood(folder / "config.json", "a model configuration", "Save it again.", ModelError):
        settings = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if getattr(settings, "is_encoder_decoder", False):
        raise ModelError(f"{folder} is a {made}, an encoder–decoder, which does not continue its own text: it is no causal "
                         "language model, and nothing was loaded. Provide a decoder, such as a …ForCausalLM.")
    return settings


def _loader(folder: Path, settings: Any) -> Any:
    """The class of transformers that loads the folder: of causal models, or of models that read pictures and write text."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    kinds: dict[Any, str] = {loader: getattr(mapping[type(settings)], "__name__", "?") for loader, mapping in (
        (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING), (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING))
        if type(settings) in mapping}
    for loader, kind in kinds.items():
        if kind == _made(settings):   # a Llama 4 with its pictures is not loaded without them
            return loader
    if kinds:
        return next(iter(kinds))
    raise ModelError(f"{folder} is a {settings.model_type} model, and transformers has no causal language model of this "
                     "architecture, so it predicts no next token; nothing was loaded. Provide a …ForCausalLM folder.")


def _own_type(folder: Path) -> torch.dtype | str:
    """The type that most weights have in their files; `auto` where it is none of the usual ones (quantised)."""
    from safetensors import SafetensorError, safe_open

    counts: dict[str, int] = {}
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(str(file), "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dictionary)
                    part = tensors.get_slice(name)
                    size = 1
                    for length in part.get_shape():
                        size *= length
                    counts[part.get_dtype()] = counts.get(part.get_dtype(), 0) + size
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} cannot be read as safetensors ({reason(error)}), so the model is incomplete; nothing was "
                             "loaded. Copy the folder again.") from None
    known = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    return known.get(max(counts, key=lambda kind: counts[kind], default=""), "auto")


def _quantised(folder: Path, settings: Any, error: ModelError) -> ModelError | None:
    """What to say where a quantised folder could not be loaded."""
    how = getattr(settings, "quantization_config", None)
    if how is None:
        return None
    method = how.get("quant_method") if isinstance(how, dict) else getattr(how, "quant_method", None)
    return ModelError(f"{folder} is quantised with {getattr(method, 'value', method)}, and its weights cannot be read here "
                      f"({reason(error.__cause__ or error)}), so nothing was loaded. Install the package, or provide the weights "
                      "in bfloat16 or float32.")


def _made(settings: Any) -> str:
    """The class that saved the folder."""
    return str((getattr(settings, "architectures", None) or ["?"])[0])


def _require_whole(folder: Path, made: str, model: nn.Module, report: Mapping[str, Any]) -> None:
    """ModelError when weights of the model are not in the folder, or the folder is of another kind of model."""
    absent = sorted({*map(str, report["missing_keys"]), *(str(entry[0]) for entry in report["mismatched_keys"])})
    if absent:
        raise ModelError(f"{folder} lacks {len(absent)} of the weights of a {type(model).__name__} ({', '.join(absent[:3])}), "
                         "which would be drawn at random; nothing was started. "
                         f"It was saved as {made}; provide the folder of the whole …ForCausalLM model.")
    spare = sorted(map(str, report["unexpected_keys"]))
    forms = {_form(name) for name, _ in model.named_parameters()}
    if more := [name for name in spare if _form(name) in forms]:
        raise ModelError(f"{folder} holds weights of more blocks than its config.json has ({', '.join(more[:3])}): "
                         f"{len(more)} of them would be lost, and what remains was not trained so. Provide the config.json of "
                         "these weights.")
    if spare and not made.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForImageTextToText")):
        raise ModelError(f"{folder} was saved as {made}, whose {', '.join(spare[:3])} a {type(model).__name__} does not have: "
                         "they would be lost, and what remains was not trained to write text. Provide the folder of a "
                         "…ForCausalLM model.")


def _form(name: str) -> str:
    """The name of a weight without the numbers of its block and expert."""
    return re.sub(r"\d+", "#", name)
