"""O3: the gate by its arithmetic, a step of adapters and detector by hand, a second request, what passes and what does not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import byhand
import plain_lm as plain
import pytest
import skills
import tiny
import torch
from torch import Tensor, nn

from lethe.core.families.language import LanguageTask
from lethe.core.guard import as_served
from lethe.core.language_guard import prompts_of
from lethe.core.modules import copied
from lethe.core.seeds import derive
from lethe.errors import ModelError, RequestError
from lethe.methods.guard.o3 import Weighted, contrastive_entropy, distances, fitted, gate, overlap


def test_golden_numbers() -> None:
    z, others = torch.tensor([[math.log(3)], [0.0]]), torch.tensor([[1.0], [0.0]])
    wanted = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert contrastive_entropy(z, others).tolist() == pytest.approx([wanted, math.log(2)]) and wanted == pytest.approx(0.562335)
    assert float(overlap(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]]))) == 13
    scores = torch.tensor([-50.0, 0.0, 50.0, 100.0, 101.2, 110.0])

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    soft = sigmoid(10 * (1 - (1 + math.erf(1.2 / math.sqrt(2))) / 2) - 2)   # G = ½ + ½Φ(1.2), so 2G − 1 = Φ(1.2)
    assert gate(scores, 0.0, 100.0, 1.0, 0.05).tolist() == pytest.approx([sigmoid(8)] * 3 + [sigmoid(3), soft, 0.0], abs=1e-5)
    assert gate(scores, 0.0, 100.0, 1.0, 0.2).tolist()[-2:] == [0.0, 0.0]   # 1 − Φ(1.2) = 0.115
    assert float(gate(scores, 0.0, 100.0, 1.0, 0.0)[-1]) == pytest.approx(sigmoid(-2))


def test_distances_are_those_of_the_shrunken_covariance() -> None:
    """Σ and its inverse written out; fewer rows than dimensions."""
    rng = torch.Generator().manual_seed(0)
    bank, z = torch.randn(5, 2, 8, generator=rng), torch.randn(3, 2, 8, generator=rng)
    inner, floor = fitted(bank)
    found = distances(z, bank, inner, floor)
    for k in range(2):
        rows, mean = (bank[:, k] - bank[:, k].mean(0)).double(), bank[:, k].mean(0)
        share = float(floor[k]) / float(rows.square().mean())
        sigma = (1 - share) / 5 * rows.T @ rows + share * rows.square().mean() * torch.eye(8).double()
        away = (z[:, k] - mean).double()
        far = torch.einsum("nd,de,ne->n", away, torch.linalg.inv(sigma), away)
        near = torch.stack([nn.functional.cosine_similarity(row.unsqueeze(0), bank[:, k]).max() for row in z[:, k]])
        assert 0 < share < 1 and found[:, k].tolist() == pytest.approx((far / 2 + 1000 * (1 - near)).tolist(), rel=1e-4)


def low_rank(model: nn.Module, layers: list[str], factors: list[tuple[Tensor, Tensor]], scale: float) -> Any:
    """Every adapted layer's matrix W becomes W + scale · b a."""
    for name, (a, b) in zip(layers, factors, strict=True):
        layer: Any = model.get_submodule(name)
        weight = layer.weight
        del layer.weight
        layer.weight = weight.detach() + scale * (b @ a)
    return model


def pairs(guard: Weighted, prefix: str = "") -> list[tuple[Tensor, Tensor]]:
    return [(getattr(guard, f"{prefix}a{i}"), getattr(guard, f"{prefix}b{i}")) for i in range(len(guard.layers))]


def test_a_step_and_the_answers_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """b starts at 0, so a stays where it was drawn and b goes down the gradient once; each row of a batch has its own w."""
    task, lr = LanguageTask.of(tiny.lm()), 0.5
    guard = byhand.outcome("o3", task, rank=4, lr=lr, detector_epochs=0).answering
    assert isinstance(guard, Weighted) and len(guard.layers) == 21 and guard.scale == 4.0 and guard.blocks == 2
    refused = task.encode(list(task.forget.column("prompt")), ["I do not know."] * 8)
    free = [(a, torch.zeros_like(b, requires_grad=True)) for a, b in pairs(guard)]
    loss = plain.nll(low_rank(task.copy_of_original().eval(), guard.layers, free, 4.0), refused)
    for (_, b), gradient in zip(pairs(guard), torch.autograd.grad(loss, [b for _, b in free]), strict=True):
        assert torch.allclose(b, -lr * gradient, atol=1e-6)
    monkeypatch.setattr(guard, "weights", lambda prompts: torch.tensor([[0.0], [0.25]]))
    quarter = low_rank(task.copy_of_original().eval(), guard.layers, pairs(guard), 1.0)
    wanted = [float(plain.nll(m, task.forget.subset([i], "one")).detach()) for i, m in enumerate((task.original, quarter))]
    assert task.nll(guard, task.forget.batch([0, 1])).tolist() == pytest.approx(wanted, abs=1e-5)


def test_a_step_of_the_detector_by_hand() -> None:
    """From b = 0 Adam's first step is lr in each entry, against the sign of the gradient."""
    task, lr, count = LanguageTask.of(tiny.lm()), 0.01, 8
    guard = byhand.outcome("o3", task, rank=4, detector_epochs=1, detector_batch=100, detector_lr=lr, masked=0.3).answering
    assert isinstance(guard, Weighted) and guard.reads == guard.layers and guard.reading_scale == 8.0
    seed = derive(0, "rum", "detector")
    rows = byhand.order(task.forget, "forget", seed=seed)
    prompts = [prompts_of(task.forget)[i] for i in rows.tolist()]
    width = max(map(len, prompts))
    ids, kept = torch.zeros(count, width, dtype=torch.long), torch.zeros(count, width, dtype=torch.bool)
    for i, row in enumerate(prompts):
        ids[i, : len(row)], kept[i, : len(row)] = torch.tensor(row), True
    original: Any = task.original
    byhand.reseed(seed=seed)
    hidden = kept & (torch.rand(count, width) < 0.3)
    seen = torch.where(hidden, torch.randint(len(original.get_input_embeddings().weight), (count, width)), ids)
    free = [(a, torch.zeros_like(b, requires_grad=True)) for a, b in pairs(guard, "e")]
    said = low_rank(task.copy_of_original().eval(), guard.layers, free, 8.0)(input_ids=seen, output_hidden_states=True)
    clean = original(input_ids=ids, output_hidden_states=True)
    loss = -torch.stack([said.logits[i, t - 1].log_softmax(0)[ids[i, t]] for i in range(count) for t in range(1, width)
                         if hidden[i, t]]).mean()
    for k in (1, 2):
        z, z0 = (torch.stack([layer[i, kept[i]].mean(0) for i in range(count)])
                 for layer in (said.hidden_states[k], clean.hidden_states[k].detach()))
        q = (z @ z0.T).softmax(1)
        loss = loss - (q * q.log()).sum(1).mean() / 2
    for (_, b), g in zip(pairs(guard, "e"), torch.autograd.grad(loss, [b for _, b in free]), strict=True):
        clear = g.abs() > 1e-3 * g.abs().max()
        assert torch.allclose(b[clear], -lr * g[clear].sign(), atol=lr / 10) and clear.float().mean() > 0.5


def requests() -> tuple[LanguageTask, LanguageTask]:
    """People are forgotten first, then twelve sums."""
    task = skills.task()
    parts = {"forget": task.retain.subset(range(12), "forget"), "retain": task.retain.subset(range(12, 24), "retain")}
    return task, LanguageTask.of(task.replaced(None, **parts))


def test_a_second_request_keeps_the_first(tmp_path: Path) -> None:
    """The first adapters stay as they were; the new A turns away from them by one step, worked out by hand."""
    (task, sums), lr, weight = requests(), 0.5, 3.0
    first = byhand.outcome("o3", task, rank=4, lr=lr, detector_epochs=0)
    one, here = first.answering, str(first.save(tmp_path / "first"))
    straight, turned = (byhand.outcome("o3", sums, rank=4, lr=lr, detector_epochs=0, before=here, orthogonal=value).answering
                        for value in (0.0, weight))
    assert isinstance(one, Weighted) and isinstance(straight, Weighted) and isinstance(turned, Weighted) and turned.requests == 2
    for (p, q), (a0, _), (a, b) in zip(pairs(one), pairs(straight), pairs(turned), strict=True):
        assert torch.equal(a[:4], p) and torch.equal(b[:, :4], q)
        wanted = a0[4:] - lr * weight / 3 * 2 * a0[4:] @ p.T @ p   # from b = 0 nothing else moves A
        assert torch.allclose(a[4:], wanted, atol=1e-6)
    people, asked = turned.weights(prompts_of(task.forget)), turned.weights(prompts_of(sums.forget))
    assert (people[:, 0] > 0.3).all() and not people[:, 1].any() and (asked[:, 1] > 0.3).all() and not asked[:, 0].any()
    with pytest.raises(RequestError, match=r"method\.rank = 8, but that of the requests before is 4"):
        byhand.outcome("o3", sums, before=here)
    elsewhere = copied(task.original, trainable=False)
    with torch.no_grad():
        next(elsewhere.parameters()).add_(1)
    with pytest.raises(ModelError, match="trained on other weights"):
        byhand.outcome("o3", sums.replaced(elsewhere), rank=4, before=here)
    with pytest.raises(RequestError, match="holds no outcome of o3"):
        byhand.outcome("o3", sums, rank=4, before=str(tmp_path))


def test_the_official_way_goes_on_with_the_same_adapters(tmp_path: Path) -> None:
    task, sums = requests()
    usual: dict[str, Any] = {"rank": 4, "detector_epochs": 0, "loading": "last"}
    first = byhand.outcome("o3", task, lr=0.5, **usual)
    one = first.answering
    two = byhand.outcome("o3", sums, lr=1e-7, before=str(first.save(tmp_path / "first")), **usual).answering
    assert isinstance(one, Weighted) and isinstance(two, Weighted)
    for (p, q), (a, b) in zip(pairs(one), pairs(two), strict=True):
        assert torch.allclose(a[4:], p, atol=1e-5) and torch.allclose(b[:, 4:], q, atol=1e-5)
    weights = two.weights(prompts_of(task.forget))
    assert not weights[:, 0].any() and (weights[:, 1] > 0.3).all()   # the last adapters, by the first request's w


def test_what_it_does_not_know_is_answered_as_before(tmp_path: Path) -> None:
    """People are forgotten, sums are not: bit for bit, beside forgotten prompts too; texts and likelihoods are of one system."""
    task = skills.task()
    outcome = byhand.outcome("o3", task, rank=4, lr=0.1)
    guard, model = outcome.answering, task.original
    assert isinstance(guard, Weighted) and outcome.kind == "guard"
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in outcome.model.named_parameters())
    asked = [*task.forget.column("prompt")[:4], *task.retain.column("prompt")[:4]]
    mixed = task.encode(asked, ["17"] * 8).batch(range(8))
    before, after = (task.token_logp(m, mixed).detach() for m in (model, guard))
    assert torch.equal(before[4:], after[4:]) and (before[:4] - after[:4]).abs().max() > 0.1
    said = task.generate(guard, asked)
    assert said[4:] == task.generate(model, asked)[4:]
    seen = task.observe(guard, task.encode(asked[:4], said[:4]).batch(range(4)))
    assert (seen["correct"] >= seen["content_mask"]).all() and said[:4] != task.generate(model, asked[:4])
    again = as_served(outcome.save(tmp_path / "out"), outcome.model)
    assert isinstance(again, Weighted) and torch.equal(task.token_logp(again, mixed), task.token_logp(guard, mixed))


def test_one_prompt_is_refused() -> None:
    task = tiny.lm()
    with pytest.raises(RequestError, match="and there is one; nothing was started"):
        byhand.outcome("o3", task.replaced(None, forget=task.forget.subset([0], "forget")))
