"""Exact head: fit the last layer from sums over records, so that a record is deleted by subtracting what it added. Cao & Yang
(2015), IEEE S&P (summation form of naive Bayes); ridge regression likewise, as in Guo et al. (2020), arXiv:1911.03030, for the
squared loss.

    q_i = round(2^b f(x_i)) with f frozen;   T = Σ_i t(q_i, y_i);   head = h(T);   delete F:  T ← T − Σ_{i∈F} t(q_i, y_i)
    bayes:  t = (e_y, e_y ⊗ q, q²);   μ_k = S_k/n_k, σ² pooled over classes;   w_k = μ_k/σ², b_k = log(n_k/n) − ½ μ_k·w_k
    ridge:  t = (z zᵀ, z yᵀ), z = [q, 1];   W = (Σ z zᵀ + λnI)⁻¹ Σ z yᵀ, y one-hot or the target; the constant is not shrunk

e_k unit vector of class k, b bits, λ ridge. The sums are integers below 2⁵³, so float64 adds and subtracts them without
rounding: the head after a deletion is bit for bit the one fitted to the rest. Each record passes alone, so that what it
adds does not depend on its neighbours. The receipt names the sums before and after by their hashes, and the manifest
each record and what it added, so that nothing is subtracted twice, or as something else than it was.
Needs:    forget; retain without `statistics` (a folder that an earlier run saved).     Updates: the head.
Cost:     one forward pass per record of F (of D without `statistics`) and one solve, O(d³); 14 ms of processor time for
          1 record, with `statistics` (d = 64, median of 15; benchmarks/exact.py).
Limits:   exact for the head. It is for the model where nothing before it was trained on D: on raw inputs, or `public_features`.
Fails by: fit: a linear head on frozen features. The scores of ridge are no calibrated probabilities.
Deviations: Cao & Yang have counts of discrete features; these are Gaussian with one variance per feature for all classes, so
          that the head is linear. A class without records left is never predicted (bias −10⁴).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lethe.core.config import Positive, config
from lethe.core.families.headed import HeadedTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Split
from lethe.core.view import missing
from lethe.errors import DataError, ModelError, NeedsUnmet, RequestError
from lethe.exact import manifest
from lethe.exact.manifest import Manifest
from lethe.train.checkpoint import load_tensors, save_tensors
from lethe.train.loop import Loop

Sums = dict[str, Tensor]
FILE = "statistics.safetensors"
NEVER = -1e4   # bias of a class without records


@config
class ExactHead:
    """Options of the exact head."""

    kind: Literal["bayes", "ridge"] = "ridge"   # bayes: classification only; cheaper, fits less   [ours]
    statistics: str = ""  # folder that this method saved; none: the head is fitted first [tested in test_exact_head] [ours]
    bits: Annotated[int, Field(ge=1, le=24)] = 10   # features are rounded to 2^−bits; more: finer, smaller n possible  [ours]
    ridge: Positive = 1e-3             # λ per record; larger: less fit                              [ours]
    floor: Positive = 1e-3             # least σ² of a feature, for bayes [only with kind=bayes]                            [ours]
    public_features: bool = False      # what comes before the head never saw the data: you say so [changes the guarantee] [ours]


def sums(q: Tensor, y: Tensor, kind: str, outputs: int, bits: int) -> Sums:
    """T over some records; integers in float64.  [n, d], [n] class numbers (int) or rounded targets (float) -> tensors

    One record q = [2], y = 0 of two classes, bits = 1, bayes: count [1, 0], sum [[2], [0]], square [4].
    """
    hot = nn.functional.one_hot(y, outputs).double() if not y.is_floating_point() else y.view(len(y), -1)
    if kind == "bayes":
        return {"count": hot.sum(0), "sum": hot.T @ q, "square": (q * q).sum(0)}
    z = torch.cat([q, torch.full((len(q), 1), 2.0**bits, dtype=q.dtype)], 1)
    return {"count": torch.tensor([float(len(q))], dtype=q.dtype), "gram": z.T @ z, "cross": z.T @ hot}


def head_of(total: Sums, kind: str, bits: int, ridge: float, floor: float) -> tuple[Tensor, Tensor]:
    """(weight, bias) from the sums.  -> [K, d], [K]"""
    unit, n = 2.0**bits, total["count"].sum()
    if kind == "bayes":
        count = total["count"].clamp(min=1).unsqueeze(1)
        mean = total["sum"] / unit / count
        variance = ((total["square"] / unit**2 - (count * mean**2).sum(0)) / n).clamp(min=floor)
        weight = mean / variance
        bias = (count.squeeze(1) / n).log() - (mean * weight).sum(1) / 2
        return weight, torch.where(total["count"] > 0, bias, torch.full_like(bias, NEVER))
    shrink = torch.full((len(total["gram"]),), ridge, dtype=total["gram"].dtype) * n
    shrink[-1] = 0
    solved = torch.linalg.solve(total["gram"] / unit**2 + shrink.diag(), total["cross"] / unit).T
    return solved[:, :-1], solved[:, -1]


def deletable(cfg: ExactHead, task: HeadedTask) -> None:
    """What is wrong with a deletion from the sums in `statistics`, before any work."""
    if cfg.statistics:
        known, ids = manifest.read(Path(cfg.statistics), "exact_head"), task.forget.ids.tolist()
        known.require_deletable(ids)
        if task.has("retain"):
            known.require_retained(ids, task.retain.ids.tolist())


@method(needs={"forget", "retain?", "original"}, uses={"features", "head"}, mechanism="exact",
        instead={"retain": "statistics=FOLDER"},
        check=deletable)
def run(cfg: ExactHead, task: HeadedTask, loop: Loop) -> Outcome:
    model = loop.start()
    name: str = task.head
    head = model.get_submodule(name)
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ModelError(f"the head {name!r} is no linear layer with a bias, which an exact head needs; nothing was changed. "
                         "Name it: model.head.")
    if cfg.kind == "bayes" and "labels" not in task.provides:
        raise RequestError(f"method.kind = bayes has classes, the task is {task.family}; nothing was changed. Use kind: ridge.")
    retained = task.retain if task.has("retain") else None
    options = {"kind": cfg.kind, "bits": cfg.bits, "ridge": cfg.ridge, "floor": cfg.floor, "before": before(model, name)}
    q, y, added = rows(model, task, task.forget, loop, cfg)
    gone, ids = sums(q, y, cfg.kind, head.out_features, cfg.bits), task.forget.ids.tolist()
    if cfg.statistics:
        known, total = opened(Path(cfg.statistics), options)
    elif retained is None:
        raise NeedsUnmet(missing("retain"))
    else:
        known, total = fitted(model, task, retained, loop, cfg, options, (gone, q, ids, added), head.out_features)
    known.require_deletable(ids)
    if retained is not None:
        known.require_retained(ids, retained.ids.tolist())
    changed = [one for one, digest in zip(ids, added, strict=True) if known.details["added"][known.key(one)] != digest]
    if changed:
        raise DataError(f"{len(changed)} records are not what they were when they were added (first: {changed[0]}), so "
                        "subtracting them would leave a trace; nothing was changed. Provide them as they were.")
    left = {key: value - gone[key] for key, value in total.items()}
    keys = {known.key(one) for one in ids}
    rest = {key: digest for key, digest in known.details["added"].items() if key not in keys}
    after = replace(known.without(ids).retrained([0]), details={**known.details, "added": rest})
    values = dict(zip((f"{name}.weight", f"{name}.bias"), head_of(left, cfg.kind, cfg.bits, cfg.ridge, cfg.floor), strict=True))
    loop.assign(model, values)
    written = all(torch.equal(model.get_parameter(key).cpu(), value.to(head.weight.dtype)) for key, value in values.items())
    outcome = loop.finish(model)
    receipt = {"before": digest(total), "removed": digest(gone), "after": digest(left), "records_left": len(after.records)}
    outcome.guarantee = guarantee(cfg, bool(options["before"]), written, receipt, len(ids))
    if "void" in outcome.guarantee:
        outcome.notes.append(outcome.guarantee["void"])

    def export(made: Outcome, folder: Path) -> None:
        save_tensors(folder / FILE, {key: value.long() for key, value in left.items()}, {})
        assert made.task is not None
        made.task.save_model(made.model, folder)
        after.write(folder, [FILE])

    outcome.export = export
    return outcome


def rows(model: nn.Module, task: HeadedTask, split: Split, loop: Loop, cfg: ExactHead) -> tuple[Tensor, Tensor, list[str]]:
    """(rounded features, labels or rounded targets, a hash per record of both).  -> [n, d] float64 integers, [n], n"""
    with evaluating(model):
        seen = [(task.features(model, batch).double().cpu(), batch.y.cpu())
                for batch in loop.drawn(split, 1, "exact_head", split.name)]
    q = (torch.cat([x for x, _ in seen]) * 2.0**cfg.bits).round()
    y = torch.cat([y for _, y in seen])
    if y.is_floating_point():
        y = (y.double() * 2.0**cfg.bits).round()
    digests = [hashlib.blake2b(a.numpy().tobytes() + b.numpy().tobytes(), digest_size=8).hexdigest()
            for a, b in zip(q, y, strict=True)]
    return q, y, digests


def fitted(model: nn.Module, task: HeadedTask, retained: Split, loop: Loop, cfg: ExactHead, options: Mapping[str, Any],
           forgotten: tuple[Sums, Tensor, list[Any], list[str]], outputs: int) -> tuple[Manifest, Sums]:
    """(manifest, sums) of all records: the retained ones and, already summed, the forgotten ones."""
    q, y, digests = rows(model, task, retained, loop, cfg)
    gone, q_gone, ids, digests_gone = forgotten
    largest = max(float(q.abs().max()), float(q_gone.abs().max()), 2.0**cfg.bits, float(y.abs().max()))
    if (len(q) + len(q_gone)) * largest**2 >= 2.0**53:
        raise RequestError(f"method.bits = {cfg.bits} with features up to {largest / 2**cfg.bits:.3g} of {len(q) + len(q_gone)} "
                           "records makes sums above 2^53, which float64 rounds; nothing was changed. Set fewer bits.")
    own = sums(q, y, cfg.kind, outputs, cfg.bits)
    bare = Manifest("exact_head", dict(options), loop.seed, {}, [[0]], [[]])
    everyone = zip([*ids, *retained.ids.tolist()], [*digests_gone, *digests], strict=True)
    digest_of = {bare.key(one): digest for one, digest in everyone}
    known = replace(bare, records={key: [0, 0] for key in digest_of}, details={"added": digest_of})
    return known, {key: value + gone[key] for key, value in own.items()}


def opened(folder: Path, options: Mapping[str, Any]) -> tuple[Manifest, Sums]:
    """(manifest, sums) of a folder, checked against the options and the features of this run."""
    known = manifest.read(folder, "exact_head")
    for key, value in options.items():
        if known.config[key] != value:
            what = f"method.{key} = {value!r}, not {known.config[key]!r}"
            what = "the layers before the head differ" if key == "before" else what
            raise ModelError(f"{folder} was made otherwise ({what}), so its sums are of other features; nothing was changed. "
                             "Provide the model and the options that it was made with.")
    return known, {key: value.double() for key, value in load_tensors(folder / FILE)[0].items()}


def before(model: nn.Module, head: str) -> str:
    """A hash of every tensor before the head; empty when there is none."""
    return digest({name: value for name, value in model.state_dict().items() if not name.startswith(f"{head}.")})


def digest(tensors: Mapping[str, Tensor]) -> str:
    """32 hex digits over names and values; empty for no tensors."""
    state = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        state.update(name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()[:32] if tensors else ""


def guarantee(cfg: ExactHead, features: bool, written: bool, receipt: dict[str, Any], count: int) -> dict[str, Any]:
    """What the certificate may say, with the receipt."""
    void = ""
    if features and not cfg.public_features:
        void = ("Not exact: the features come from layers which may have been trained on the records "
                "(method.public_features=true says that they were not).")
    elif not written:
        void = "Not exact: modifiers or the watchdog kept some of the head's weights as they were."
    if void:
        return {"level": "none", "void": void, "receipt": receipt}
    seen = ["What comes before the head never saw the data: the requester says so."] * features
    return {"level": "exact", "deleted": count, "receipt": receipt,
            "basis": "given a head fitted to sums from which the deleted records were subtracted without rounding",
            "assumptions": ["The sums held these records as the manifest says.", *seen]}
