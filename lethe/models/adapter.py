"""LoRA adapters that models come with: put on their base, moved alone, and written back as they came.

The base stays bit for bit what it is, so many adapters can share it. PEFT reads and writes them; no code of a folder is run.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lethe.core.extras import needs_extra
from lethe.core.modules import seeded
from lethe.core.seeds import derive
from lethe.core.task import Recipe
from lethe.core.user_files import reason
from lethe.errors import ModelError, PickleRefused, RequestError
from lethe.models.weights import HALF

WEIGHT = re.compile(r"(\.base_layer)?\.weight$")
CAUSAL = ("ForCausalLM", "LMHeadModel")   # endings of the names of such models in transformers
SETTINGS, WEIGHTS, FIRST = "adapter_config.json", "adapter_model.safetensors", "base_model.model."


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter without its base."""
    return (folder / SETTINGS).exists() and not (folder / "config.json").exists()


def settings_of(folder: Path) -> dict[str, Any]:
    """What the adapter's file says; ModelError where it is no LoRA adapter, or holds whole layers beside it."""
    try:
        said = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        kind, whole = said.get("peft_type"), said.get("modules_to_save")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / SETTINGS} cannot be read ({reason(error)}), so the adapter is unknown; nothing was loaded. "
                         "Save it again with PEFT.") from None
    if kind != "LORA" or whole:
        what = f"a {kind} adapter" if kind != "LORA" else f"a LoRA adapter with whole layers beside it ({', '.join(whole)})"
        raise ModelError(f"{folder} is {what}, of which only part could be moved and given back; nothing was loaded. "
                         "Merge it into its base (PeftModel.merge_and_unload) and pass the whole model as model.folder.")
    if not (folder / WEIGHTS).is_file():
        if list(folder.glob("adapter_model.bin")):
            raise PickleRefused(f"{folder} has its weights only as adapter_model.bin, a pickle, which can run any code when "
                                "it is loaded; it was not opened. Save the adapter again where you trust it: as safetensors.")
        raise ModelError(f"{folder} lacks {WEIGHTS}, so the adapter holds no weights; nothing was loaded. Copy it again.")
    return cast("dict[str, Any]", said)


def base_of(folder: Path) -> Path:
    """The folder of the base that the adapter's file names; ModelError where it is not here."""
    named = str(settings_of(folder).get("base_model_name_or_path") or "")
    for place in (Path(named), folder / named) if named else ():
        if (place / "config.json").exists():
            return place
    raise ModelError(f"{folder} is an adapter on {named or 'a base that it does not name'}, which is no folder here, and nothing "
                     "is downloaded, so it cannot run. Set model.folder to the folder of its base and model.adapter to this one.")


def attached(base: nn.Module, folder: Path) -> tuple[nn.Module, dict[str, torch.dtype]]:
    """The base with the adapter on it, in float32, and the types of the adapter's weights in its file where it is a half one."""
    try:
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
        from safetensors.torch import load_file
    except ImportError:
        raise needs_extra("lm", "an adapter", "PEFT", "it was not read") from None
    settings_of(folder)
    try:
        held = load_file(folder / WEIGHTS)
        model: nn.Module = inject_adapter_in_model(LoraConfig.from_pretrained(str(folder)), base)
        set_peft_model_state_dict(model, {name.removeprefix(FIRST): value for name, value in held.items()})
    except Exception as error:   # a damaged or foreign adapter makes the libraries raise anything
        raise ModelError(f"{folder} cannot be put on a {type(base).__name__} ({reason(error)}), so the model is incomplete; "
                         "nothing was loaded. Provide the base that the adapter was trained on.") from error
    for p in moving(model).values():
        p.data = p.data.float()
    own = tensors_of(model)
    if own.keys() != held.keys():
        apart = sorted(own.keys() ^ held.keys())
        raise ModelError(f"{folder} and the adapter that its file describes differ in {len(apart)} tensors ({apart[0]}), which "
                         "would be lost or drawn at random; nothing was loaded. Provide the base that it was trained on.")
    named = {value.data_ptr(): name for name, value in model.named_parameters()}
    types = {named[own[key].data_ptr()]: value.dtype for key, value in held.items() if value.dtype in HALF}
    return model, types


def merged(model: nn.Module) -> nn.Module:
    """The model with its adapters added to the weights that they stand on, and no longer there."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
    return model


def is_of_language(folder: Path) -> bool | None:
    """Whether an adapter's base is a causal language model: as the adapter's file says, else as the base that it names does.

    One that names no base is a model's of the user's own. None: the base is not here, or does not say what it is.
    """
    said = settings_of(folder)
    if kind := said.get("task_type"):
        return bool(kind == "CAUSAL_LM")
    if not (named := said.get("base_model_name_or_path")):
        return False
    for place in (Path(str(named)), folder / str(named)):
        with suppress(OSError, ValueError, AttributeError):
            if made := json.loads((place / "config.json").read_text(encoding="utf-8")).get("architectures"):
                return str(made[0]).endswith(CAUSAL)
        if (place / "lethe.json").exists():   # saved here, and of no language model, whose folders are transformers' own
            return False
    return None


def require_alone(folder: Path | None, recipe: Recipe | None) -> None:
    """RequestError where a recipe would train adapters beside the one that came."""
    if folder is not None and recipe is not None and recipe.lora:
        raise RequestError(f"recipe.lora = {recipe.lora}, and the model is an adapter ({folder}): the recipe trains one of its "
                           "form, and there would be two; nothing was started. Leave recipe.lora out.")


def fresh(base: nn.Module, folder: Path, seed: int) -> nn.Module:
    """The base with an adapter of the same shape that was never trained: what a recipe starts from."""
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig.from_pretrained(str(folder))
    settings.inference_mode = False
    return seeded(lambda _: inject_adapter_in_model(settings, base), derive(seed, "adapter"))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors by their names in its file."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(cast(Any, model), state_dict=model.state_dict())
    return {f"{FIRST}{name}": value for name, value in found.items()}


def moving(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's parameters by their names in the model."""
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


def save(model: nn.Module, types: Mapping[str, torch.dtype], came: Path, folder: Path) -> None:
    """The adapter as it came: its own settings, names and types."""
    from safetensors.torch import save_file

    named = {value.data_ptr(): name for name, value in model.named_parameters()}
    tensors = {key: value.detach().to(types.get(named[value.data_ptr()], value.dtype)).cpu().contiguous()
               for key, value in tensors_of(model).items()}
    shutil.copyfile(came / SETTINGS, folder / SETTINGS)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def on_layers(model: nn.Module, weights: Sequence[str]) -> list[str]:
    """Names of the adapter's parameters on the layers of these weights; ModelError where it has none there."""
    layers = tuple(WEIGHT.sub(".", name) for name in weights)
    found = [name for name in moving(model) if name.startswith(layers)]
    if not found:
        raise ModelError(f"the adapter has no part on {weights[0].removesuffix('.weight')}, which the method moves, so nothing "
                         "could move. Choose other layers or another method, or merge the adapter into its base.")
    return found
