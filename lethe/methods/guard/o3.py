"""O3: for each request low-rank adapters that answer its prompts wrongly, orthogonal to those before, and a detector that says of
every prompt which of them are loaded, and by how much; the weights stay. Gao, Wang, Ding, Weng, Wang & Zhu (2024), "On Large
Language Model Continual Unlearning", arXiv:2407.10223 (ICLR 2025).

    W_ℓ x → W_ℓ x + w_t(q) · (α/r) · B_{t,ℓ} A_{t,ℓ} x,    q the prompt, t the request whose w_t(q) is largest
    L(A_t, B_t) = E_{x∈F} ℓ̄(e | x)  +  λ · 1/L · Σ_ℓ Σ_{s<t} ‖A_{s,ℓ} A_{t,ℓ}ᵀ‖²
    L(E) = E_{x∈F} 1/K · Σ_k H(softmax_j ⟨z_k(x̃), z⁰_k(x_j)⟩)  +  ℓ̄(x | x̃)
    d_k(q) = ½ · (z_k − μ_k)ᵀ Σ_k⁻¹ (z_k − μ_k)  +  1000 · (1 − max_{x∈F} cos(z_k, z_k(x))),    S(q) = u · d(q)
    w_t(q) = σ(10 · (1 − |G(s) − G(2 s_0 − s)|) − 2),   s = max(S(q), s_0),    0 where 1 − Φ((S(q) − m_2)/τ) < ε

F the forget set of request t, e a refusal or another record's answer, drawn once; ℓ̄ mean negative log-probability; s the
requests before; z_k(x) the mean state of a prompt's tokens after block k of the detector E (the model with adapters of its own),
z⁰_k without them, x̃ the prompt with a share of its tokens replaced; μ_k, Σ_k mean and shrunken covariance of z_k(F), u the
weights of a linear one-class machine on d(F). S has mean m_1 on F, and mean m_2, deviation τ, on prompts of F that were held out;
s_0 = (m_1 + m_2)/2, G(s) = ½Φ((s − m_1)/τ) + ½Φ((s − m_2)/τ).
Needs:    forget, original; prompts (no plain text), two or more.     Updates: nothing; the outcome is a guard, which holds the
          adapters. No retained data. Leave the records of earlier requests out of those retained: what the guard still does
          to them looks like damage to the watchdog.
Cost:     training of adapters on F, of the detector at the first request; each prompt is read once more when it is asked.
Limits:   w = 0 is the original, bit for bit. What one request forgot the next cannot undo, where the detector knows them apart.
          loading=last, as the official code: A_t, B_t begin as those before and alone are loaded, by the largest w.
Fails by: the detector: it knows a subject by its wording. The same question in other words passes; where retained prompts are
          worded like forgotten ones (other people, same questions) it opens for them, too, and the watchdog takes it back.
          With loading=last λ takes from A what the requests before had put there: they come back in part, less with λ = 0.
          Whoever holds the weights takes it off (audit: `guard`), and its file holds the states of the forgotten prompts.
Deviations: the detector is the model itself instead of RoBERTa, so a random token stands for a masked one, and what stands
          before a token predicts it; its adapters are of the first request and shared by the later ones. The two parts of d are
          both distances, where the official code adds a similarity and turns the sign by the test data; it pools pads, too. Σ
          is shrunk as Ledoit and Wolf do. Nearer than s_0 counts as s_0. ε closes the gate on held-out forgotten
          prompts (by fifths); the official evaluation has fixed limits on w and 1.2 for w > 0.9. ℓ̄ is of the answer alone.
          No dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, NonNegative, Optimiser, Positive, config
from lethe.core.families.language import LanguageTask, asked_and_answered
from lethe.core.guard import load_guard
from lethe.core.language_guard import LanguageGuard, Prompt, padded, prompts_of
from lethe.core.modules import hooked, lent, state_fingerprint
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.sequences import IGNORED
from lethe.core.split import Batch
from lethe.errors import ModelError, RequestError
from lethe.train.inner import charge, within
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.where.lora import A, B, Lora, adapted_layers
from lethe.train.tuning import retold

LOCAL = 1000.0          # weight of the distance to the nearest neighbour                            [official code]
WIDTH, SHIFT = 10.0, 2.0   # of w in G                                                               [official code]
NU = 0.1                # ν of the one-class machine                                                 [official code]
FOLDS = 5               # prompts of F are held out by fifths


@config
class O3:
    """Options of O3."""

    before: str = ""                   # folder of o3's outcome for the requests before; none: the first [tested in test_o3]
    rank: Count = 8                    # r of the adapters, also of the detector's                   [official code]
    alpha: Positive = 16.0             # α; the scale is α/r                                         [official code]
    loading: Literal["own", "last"] = "own"   # see Limits [tested in test_o3]                       [official code: last]
    orthogonal: NonNegative = 0.1      # λ [tested in test_o3]                                       [official code]
    lr: Positive = 3e-4                # AdamW, for 7 B weights; tiny models need more               [official code]
    epochs: Positive = 10.0            # passes over F                                               [official code: 10–15]
    batch_size: Count = 128            # records per step                                            [official code]
    optimiser: Optimiser = "adamw"     # update rule                                                 [official code]
    weight_decay: NonNegative = 0.0    # pull towards 0                                              [official code]
    clip: Positive | None = 1.0        # largest gradient norm; null: none [only with lr=0.1]        [official code]
    blocks: Count | None = None        # K, the first blocks that the detector reads; null: half     [official code: 12 of 24]
    missed: Fraction = 0.05            # ε, share of prompts like the forgotten ones that may find the gate closed     [ours]
    masked: Fraction = 0.15            # share of a prompt's tokens that are replaced [only with detector_lr=0.1]      [paper]
    detector_lr: Positive = 1e-5       # AdamW, of the detector's adapters                           [official code]
    detector_alpha: Positive = 32.0    # their α [only with detector_lr=0.1]                         [official code]
    detector_epochs: NonNegative = 2.0   # passes over F; 0: the model as it is [only with detector_lr=0.1]   [official code]
    detector_batch: Count = 8          # prompts of a step [only with detector_lr=0.1]    [official code]


class Head(NamedTuple):
    """What tells prompts of one request from others.

    bank    [m, K, d] states of F      inner  [K, m, m] of Σ⁻¹, see `fitted`     floor  [K] the least variance in Σ
    across  [K] u     middle  [3] m_1, m_2, τ
    """

    bank: Tensor
    inner: Tensor
    floor: Tensor
    across: Tensor
    middle: Tensor


class Weighted(LanguageGuard):
    """Loads the adapters of a request by as much as a prompt is like its own.

    a0, b0, …    [t·r, in], [out, t·r] the adapters of all requests on `layers`     ea0, eb0, …  the detector's on `reads`
    bank0, …     a `Head` for each request
    """

    layers: list[str]
    reads: list[str]
    requests: int
    blocks: int
    rank: int
    loading: str
    scale: float
    reading_scale: float
    missed: float
    base: str

    def weights(self, prompts: Sequence[Prompt]) -> Tensor:
        """By how much each prompt loads the adapters of each request: those of one alone.  -> [n, t]"""
        with self.detecting():
            z = states(self.model, prompts, self.blocks)
        best, which = torch.stack([opened(head, z, self.missed) for head in self.heads()], 1).max(1, keepdim=True)
        return torch.zeros(len(z), self.requests).to(z.device).scatter(1, self.loaded(which), best)

    def loaded(self, request: Tensor) -> Tensor:
        """The request whose adapters are loaded where that one's w is largest."""
        return request if self.loading == "own" else torch.full_like(request, self.requests - 1)

    def heads(self) -> list[Head]:
        """One for each request so far."""
        return [Head(*(getattr(self, f"{part}{t}") for part in Head._fields)) for t in range(self.requests)]

    def detecting(self) -> AbstractContextManager[None]:
        """Inside, the model reads prompts as the detector."""
        pairs = [(getattr(self, f"ea{i}"), getattr(self, f"eb{i}")) for i in range(len(self.reads))]
        return adding(self.model, self.reads, pairs, self.reading_scale)

    def working(self, prompts: Sequence[Prompt], where: Tensor, cached: bool) -> AbstractContextManager[None]:
        share = self.weights(prompts)
        if not share.any():
            return nullcontext()
        pairs = [(getattr(self, f"a{i}"), getattr(self, f"b{i}")) for i in range(len(self.layers))]
        return adding(self.model, self.layers, pairs, self.scale, share.repeat_interleave(self.rank, 1).to(where.device))


@contextmanager
def adding(model: nn.Module, layers: Sequence[str], pairs: Sequence[tuple[Tensor, Tensor]], scale: float,
           share: Tensor | None = None) -> Iterator[None]:
    """Inside, each layer adds scale · B (share · A x). share: [n, r] of the rows of a batch; None: 1"""
    def hook(a: Tensor, b: Tensor) -> Callable[..., Tensor]:
        def add(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            inner: Tensor = args[0].to(a.dtype) @ a.T
            if share is not None:   # some networks put the tokens of a batch into one row after the other
                many = share.repeat_interleave(len(out) // len(share), 0)
                inner = inner * many.view(len(out), *[1] * (out.dim() - 2), -1)
            more: Tensor = scale * (inner @ b.T)
            return out + more.to(out.dtype)
        return add

    modules = [model.get_submodule(name) for name in layers]
    with hooked(*(module.register_forward_hook(hook(*pair)) for module, pair in zip(modules, pairs, strict=True))):
        yield


def mean_states(hidden: Sequence[Tensor], kept: Tensor) -> Tensor:
    """Mean of each block's states over the tokens that count.  K × [n, T, d], [n, T] bool -> [n, K, d]"""
    weight = (kept / kept.sum(1, keepdim=True)).to(hidden[0].device)
    return torch.stack([torch.einsum("ntd,nt->nd", layer.float(), weight) for layer in hidden], 1)


@torch.no_grad()
def states(model: nn.Module, prompts: Sequence[Prompt], blocks: int) -> Tensor:
    """z_k of each prompt for the first `blocks` blocks.  -> [n, K, d]"""
    found = []
    for ids, last in padded(model, prompts):
        hidden = cast(Any, model)(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[1 : blocks + 1]
        found.append(mean_states(hidden, torch.arange(ids.shape[1]) <= last.unsqueeze(1)))
    return torch.cat(found)


def contrastive_entropy(z: Tensor, others: Tensor) -> Tensor:
    """H of the softmax over j of ⟨z_i, others_j⟩.  [n, d], [m, d] -> [n]

    z = (ln 3), others = (1, 0): q = (¾, ¼), H = ¾·ln (4/3) + ¼·ln 4 = 0.562335; z = 0: ln 2.
    """
    logq = (z @ others.T).log_softmax(1)
    return -(logq.exp() * logq).sum(1)


def overlap(new: Tensor, before: Tensor) -> Tensor:
    """‖A_s Aᵀ‖², summed over all rows before.  [r, in], [R, in] -> []

    overlap([[1, 2]], [[3, 0], [0, 1]]) = 3² + 2² = 13.
    """
    return (before @ new.T).square().sum()


def fitted(bank: Tensor) -> tuple[Tensor, Tensor]:
    """`inner` and `floor` of a bank: Σ = f·I + c·XᵀX of the centred rows X, so Σ⁻¹ = (I − Xᵀ · inner · X)/f with
    inner = c·(f·I + c·XXᵀ)⁻¹, c = (1 − s)/m, f = s·tr(XXᵀ)/(m·d), s of Ledoit & Wolf.  [m, K, d] -> [K, m, m], [K]"""
    from sklearn.covariance import ledoit_wolf_shrinkage

    rows = (bank - bank.mean(0)).double().cpu().transpose(0, 1)
    shrinkage = torch.tensor([float(ledoit_wolf_shrinkage(one.numpy(), assume_centered=True)) for one in rows]).double()
    s, gram = shrinkage.clamp(min=1e-3), rows @ rows.transpose(1, 2)
    floor = (s * rows.square().mean((1, 2))).clamp(min=1e-12)
    c = ((1 - s) / rows.shape[1]).view(-1, 1, 1)
    inner = c * torch.linalg.inv(floor.view(-1, 1, 1) * torch.eye(rows.shape[1]).double() + c * gram)
    return inner.float().to(bank.device), floor.float().to(bank.device)


def distances(z: Tensor, bank: Tensor, inner: Tensor, floor: Tensor) -> Tensor:
    """d_k of each prompt; larger is less alike.  [n, K, d] -> [n, K]"""
    mean = bank.mean(0)
    away, rows = z - mean, bank - mean
    cross = torch.einsum("nkd,mkd->nkm", away, rows)
    far = (away.square().sum(-1) - torch.einsum("nkm,kmj,nkj->nk", cross, inner, cross)) / floor
    alike = torch.einsum("nkd,mkd->nkm", nn.functional.normalize(z, dim=-1), nn.functional.normalize(bank, dim=-1))
    return far / 2 + LOCAL * (1 - alike.amax(-1))


def gate(score: Tensor, near: float, held: float, spread: float, missed: float) -> Tensor:
    """w of scores.  [n] -> [n]

    At s_0 σ(8) = 0.999665; at m_2, far from m_1, G = ¾ and w = σ(3) = 0.952574; far beyond 0, or σ(−2) with ε = 0.
    """
    middle = (near + held) / 2
    x = score.clamp(min=middle)

    def normal(at: Tensor, mean: float) -> Tensor:
        return (1 + torch.erf((at - mean) / (spread * math.sqrt(2)))) / 2

    def both(at: Tensor) -> Tensor:
        return (normal(at, near) + normal(at, held)) / 2

    share = torch.sigmoid(WIDTH * (1 - (both(x) - both(2 * middle - x)).abs()) - SHIFT)
    return torch.where(1 - normal(x, held) < missed, 0.0, share)


def head_of(bank: Tensor) -> Head:
    """What is learnt of the states of F; at least two.  [m, K, d]"""
    from sklearn.svm import OneClassSVM

    inner, floor = fitted(bank)
    own = distances(bank, bank, inner, floor)
    machine = OneClassSVM(kernel="linear", nu=NU).fit(own.double().cpu().numpy())
    across = torch.tensor(machine.coef_[0].tolist()).to(bank)
    fold = torch.arange(len(bank)) % min(FOLDS, len(bank))
    held = torch.cat([distances(bank[fold == k], bank[fold != k], *fitted(bank[fold != k])) @ across for k in fold.unique()])
    middle = torch.stack([(own @ across).mean(), held.mean(), held.std(correction=0).clamp(min=1e-6)])
    return Head(bank, inner, floor, across, middle)


def opened(head: Head, z: Tensor, missed: float) -> Tensor:
    """w_t of each prompt's states.  [n, K, d] -> [n]"""
    near, held, spread = head.middle.tolist()
    return gate(distances(z, head.bank, head.inner, head.floor) @ head.across, near, held, spread, missed)


def earlier(cfg: O3, task: LanguageTask) -> Weighted | None:
    """The guard of the requests before; ModelError where it stands on another model."""
    if not cfg.before:
        return None
    found = load_guard(Path(cfg.before), task.original)
    if not isinstance(found, Weighted):
        raise RequestError(f"method.before = {cfg.before} holds no outcome of o3, so the requests before this one are unknown; "
                           "nothing was started. Name the folder that holds its guard/, or leave it out at the first request.")
    if found.base != state_fingerprint(task.original):
        raise ModelError(f"the adapters in {cfg.before} were trained on other weights than those of the request, so they would "
                         "do something else on these; nothing was started. Name the model of the first request.")
    return found


def startable(cfg: O3, task: LanguageTask) -> None:
    """What is wrong with a request, before any work."""
    asked_and_answered(task.forget, "o3")
    if len(task.forget) < 2:
        raise RequestError("o3 holds prompts out to learn how far apart forgotten ones are, and there is one; nothing was "
                           "started. Provide more records, or choose refusal_gate.")
    before = earlier(cfg, task)
    for name, value in {} if before is None else {"rank": cfg.rank, "loading": cfg.loading}.items():
        if (was := getattr(before, name)) != value:
            raise RequestError(f"method.{name} = {value}, but that of the requests before is {was}, and all stand in one guard; "
                               f"nothing was started. Set method.{name}={was}.")


@method(needs={"forget", "original"}, uses={"layer_count", "nll", "relabel"}, mechanism="guard", check=startable)
def run(cfg: O3, task: LanguageTask, loop: Loop) -> Outcome:
    before, prompts = earlier(cfg, task), prompts_of(task.forget)
    if before is None:
        blocks = min(cfg.blocks or -(-task.layer_count // 2), task.layer_count)
        known: dict[str, Any] = {**detector(cfg, task, loop, prompts, blocks), "blocks": blocks, "requests": 0, "rank": cfg.rank,
                                 "loading": cfg.loading, "reading_scale": cfg.detector_alpha / cfg.rank,
                                 "base": state_fingerprint(task.original)}
    else:
        known = before.tensors() | before.settings()
    number = known["requests"]
    now = {"scale": cfg.alpha / cfg.rank, "missed": cfg.missed, "requests": number + 1}
    parts = known | adapters(cfg, task, loop, before) | now
    model = loop.start()
    with Weighted(model, **parts).detecting():
        bank = states(model, prompts, parts["blocks"])
    head = head_of(bank)
    parts |= {f"{part}{number}": value for part, value in head._asdict().items()}
    share = opened(head, bank, cfg.missed)
    loop.note(f"request {number + 1}: its adapters are loaded by {float(share.mean()):.2f} on average for the forgotten prompts, "
              f"for {int((share == 0).sum())} of {len(share)} not at all; the guard takes them off again, nothing was removed")
    return loop.finish(model, guard=lambda m: Weighted(m, **parts))


def adapters(cfg: O3, task: LanguageTask, loop: Loop, before: Weighted | None) -> dict[str, Any]:
    """The adapters of all requests, this one's last, by the guard's names."""
    own = within(loop, task, "adapters", loop.modifiers)
    model = own.start(lent(task.original), where=Lora(rank=cfg.rank, alpha=cfg.alpha))
    layers = adapted_layers(own.selected(model))
    if before is not None and before.layers != layers:
        raise ModelError(f"the adapters in {cfg.before} stand on other layers than those that this model takes; nothing was "
                         "changed. Use the version of this program that made them.")
    device = model.get_parameter(f"{layers[0]}.{A}").device
    past = {} if before is None else {name: value.to(device) for name, value in before.tensors().items()}
    for i, layer in enumerate(layers if past and cfg.loading == "last" else ()):
        with torch.no_grad():
            model.get_parameter(f"{layer}.{A}").copy_(past[f"a{i}"][-cfg.rank :])
            model.get_parameter(f"{layer}.{B}").copy_(past[f"b{i}"][:, -cfg.rank :])

    def crossing(m: nn.Module, share: float) -> Tensor:
        return cfg.orthogonal / task.layer_count * torch.stack([
            overlap(m.get_parameter(f"{layer}.{A}"), past[f"a{i}"]) for i, layer in enumerate(layers)]).sum()

    refusals = retold(task, loop, task.forget)
    own.minimise(model, {"forget": Term(task.forget, lambda m, b: task.nll(m, refusals(b)))}, lr=cfg.lr, epochs=cfg.epochs,
                 batch_size=cfg.batch_size, optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip,
                 penalty=crossing if past and cfg.orthogonal else None)
    charge(loop, own)
    new = pairs_of(own.tensors(model), layers, "")
    return {"layers": layers, **{name: torch.cat([past[name], value.to(device)], int(name[0] == "b")) if past else value
                                 for name, value in new.items()}}


def pairs_of(tensors: Mapping[str, Tensor], layers: Sequence[str], prefix: str) -> dict[str, Tensor]:
    """Factors by the guard's names."""
    return {f"{prefix}{part}{i}": tensors[f"{layer}.{key}"]
            for i, layer in enumerate(layers) for part, key in (("a", A), ("b", B))}


def detector(cfg: O3, task: LanguageTask, loop: Loop, prompts: Sequence[Prompt], blocks: int) -> dict[str, Any]:
    """The detector's adapters by the guard's names, trained to tell each forgotten prompt from the others of its batch."""
    if not cfg.detector_epochs:
        return {"reads": []}
    own = within(loop, task, "detector", loop.modifiers)
    clean = states(task.original, prompts, blocks)
    model = own.start(lent(task.original), where=Lora(rank=cfg.rank, alpha=cfg.detector_alpha))
    size = int(cast(Any, task.original).get_input_embeddings().weight.shape[0])

    def loss(m: nn.Module, batch: Batch) -> Tensor:
        asked = (batch.labels != IGNORED).int().argmax(1).cpu()
        ids = batch.ids[:, : int(asked.max())]
        kept = torch.arange(ids.shape[1]) < asked.unsqueeze(1)
        hidden_ones = kept & (torch.rand(kept.shape) < cfg.masked)   # seeded per step; the same on every device
        seen = torch.where(hidden_ones.to(ids.device), torch.randint(size, kept.shape).to(ids.device), ids)
        said = cast(Any, m)(input_ids=seen, use_cache=False, output_hidden_states=True)
        z, others = mean_states(said.hidden_states[1 : blocks + 1], kept), clean[batch.index.cpu()].to(ids.device)
        entropy = torch.stack([contrastive_entropy(z[:, k], others[:, k]) for k in range(blocks)]).mean(0)
        wrong = nn.functional.cross_entropy(said.logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
        which = hidden_ones[:, 1:].to(ids.device)
        return entropy + (wrong * which).sum() / which.sum().clamp(min=1)

    own.minimise(model, {"forget": Term(task.forget, loss, coupled=True)}, lr=cfg.detector_lr, epochs=cfg.detector_epochs,
                 batch_size=cfg.detector_batch, optimiser="adamw", weight_decay=0.01)
    charge(loop, own)
    reads = adapted_layers(own.selected(model))
    return {**pairs_of(own.tensors(model), reads, "e"), "reads": reads}
