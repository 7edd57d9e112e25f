"""Guard: what does the model know without what is wrapped around it? Guardrails: Thaker et al. 2024, arXiv:2403.03329.

    bare = the original's architecture filled with the tensors of the same names inside the model under audit: in a wrapper
           under a prefix, in an adapter under `base_layer`; hooks, filters and layers that were added are left behind
    bare_score = mean score of bare on F;      bare_same_weights = share of numbers of bare that are the original's, exactly
    row_restored_score = score on F of bare with the head's rows of the removed classes taken from the original

Whoever holds the weights takes the guard off, so a guard is no unlearning: it is judged by what is under it. Where nothing
is wrapped, bare is the model itself and `bare_score` its score. A class whose row of the head was emptied is back with
`row_restored_score` when the layers below still know it; other features make that row meaningless, so it is shown only.
Needs:    forget, original.     Cost: a copy of the model and one pass over F; two for classifiers that lost a class.
Limits:   a guard is recognised by names and shapes: knowledge moved into layers of other names is not looked for.
Finds:    tiny MLP on blobs without class 3, eight retrained models 0.00: a filter that gives the class's second choice scores
          0.00 and 1.00 bare with all weights the original's; an emptied row scores 0.00 bare and 1.00 restored.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lethe.core.alike import class_labels
from lethe.core.config import config
from lethe.core.evidence import Value
from lethe.core.modules import codes, copied
from lethe.core.registry import Metric, audit
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

BASE = ".base_layer"   # where adapters keep the layer they sit on


@config
class Guard:
    """No options."""


@audit(
    metrics={
        "bare_score": Metric("mean score on the forget set without what is wrapped around the weights", aspect="recovery"),
        "bare_same_weights": Metric("share of the model's numbers that are exactly the original's", better="lower",
                                    aspect="recovery"),
        "row_restored_score": Metric("mean score on the forget set with the original's head rows of the removed classes",
                                     better="lower", aspect="recovery"),
    },
    uses={"observe"},
    needs={"forget", "original"},
    blind="It takes off what has other names than the original's layers; it cannot take apart what was merged into them.",
)
def measure(cfg: Guard, subject: Subject, panel: Panel) -> list[Value]:
    original = panel.original.model
    found = inside(subject.model.state_dict(), original.state_dict())
    if found is None or scaled_apart(original, found):
        return []
    bare = filled_as(original, found)
    whole = mean_value("bare_score", subject.like(bare, "bare").numbers(panel.task.forget, "score"))
    same = same_numbers(found, original.state_dict())
    other = len(found) < len(subject.model.state_dict()) or type(subject.model) is not type(original)
    wrapped = other or subject.served is not None
    detail = {"wrapped": wrapped, "kind": subject.kind, "says": says(wrapped or subject.kind == "guard", same)}
    values = [Value(whole.metric, whole.value, whole.low, whole.high, whole.n, whole.per_sample, detail),
              Value("bare_same_weights", same, detail={"kept": True} if same == 1 and subject is not panel.original else {})]
    restored = _restored(bare, panel)
    if restored is not None:
        values.append(mean_value("row_restored_score", subject.like(restored, "restored").numbers(panel.task.forget, "score")))
    return values


def inside(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors of `state` that have the wanted names and shapes below one common prefix; None when some are missing."""
    plain = {name.replace(BASE, ""): value for name, value in state.items()}
    first = next(iter(wanted))
    for prefix in sorted((name[: -len(first)] for name in plain if name == first or name.endswith(f".{first}")), key=len):
        found = {name: plain[prefix + name] for name in wanted if prefix + name in plain}
        if len(found) == len(wanted) and all(found[name].shape == value.shape for name, value in wanted.items()):
            return found
    return None


def filled_as(original: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A frozen copy of the original with these values; scales of quantised layers are no tensors of a model, and stay."""
    twin = copied(original, trainable=False)
    twin.load_state_dict(dict(tensors), strict=not codes(dict(original.named_parameters())))
    return twin


def scaled_apart(original: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the codes of a quantised layer mean other numbers than in the original."""
    if not codes(dict(original.named_parameters())):
        return False
    own = {name for name, _ in [*original.named_parameters(remove_duplicate=False), *original.named_buffers()]}
    return any(name not in own and not torch.equal(tensors[name].cpu(), value.cpu())
               for name, value in original.state_dict().items())


def same_numbers(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
    """Share of equal numbers."""
    same = sum(int((value.cpu() == others[name].cpu()).sum()) for name, value in tensors.items())
    return same / max(1, sum(value.numel() for value in tensors.values()))


def says(guarded: bool, same: float) -> str:
    """What was found, in words."""
    if not guarded:
        return "nothing is wrapped around the model"
    return "guard: the weights still know" if same == 1 else "guard: what is inside is judged by its own score"


def _restored(bare: nn.Module, panel: Panel) -> nn.Module | None:
    """None where no class was removed or the head is not one linear layer."""
    task = panel.task
    if class_labels(task.forget) is None or not task.has("retain") or not hasattr(task, "head"):
        return None
    gone = sorted(set(task.forget.columns["y"].tolist()) - set(task.retain.columns["y"].tolist()))
    head, before = bare.get_submodule(task.head), panel.original.model.get_submodule(task.head)
    if not gone or not isinstance(head, nn.Linear) or not isinstance(before, nn.Linear):
        return None
    twin = copied(bare, trainable=False)
    mine = twin.get_submodule(task.head)
    with torch.no_grad():
        for name, value in mine.named_parameters():
            value[gone] = before.get_parameter(name)[gone].to(value.device)
    return twin
