"""The loop: accumulation, divergence, budgets, precision, tables of the original, the journal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from rounding import bound, difference
from torch import Tensor, nn

from lethe.core.config import config, plain
from lethe.core.modules import named_tensors, state_fingerprint
from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.errors import Diverged, OutOfRange, RequestError
from lethe.train import optimise
from lethe.train.loop import Loop, Modifiers, Settings, Term
from lethe.train.order import Order
from lethe.train.settings import accelerator
from lethe.train.watchdog import Watchdog


def task() -> Task:
    return tiny.TASKS["classification"]()


def ascend(loop: Loop, lr: float = 0.5, steps: int = 40, **more: object) -> nn.Module:
    """Ruin a model: ascent on retained data."""
    model = loop.start()
    return loop.minimise(model, {"up": Term(loop.task.retain, lambda m, b: -loop.task.nll(m, b))}, lr=lr, steps=steps, **more)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(("n", "size", "sizes"), [
    (64, 16, [16] * 4), (65, 16, [16, 16, 16, 17]), (66, 16, [16] * 4 + [2]), (1, 16, [1]), (3, 2, [3]), (3, 1, [1, 1, 1])])
def test_no_example_is_left_alone_at_the_end_of_an_epoch(n: int, size: int, sizes: list[int]) -> None:
    """Batch norm cannot train on one example; each is still drawn once per epoch."""
    order = Order(Split({"x": torch.zeros(n, 1)}), size, 0)
    drawn = [order.draw(k) for k in range(len(sizes))]
    assert [len(batch) for batch in drawn] == sizes and sorted(torch.cat(drawn).tolist()) == list(range(n))
    assert len(order.draw(len(sizes))) == sizes[0]


# -- one step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [2, 3, 32, 100])
def test_accumulation_gives_the_gradient_of_the_whole_batch(accumulate: int) -> None:
    """Batches of 30 and, at the end of an epoch, of 10: short batches and short pieces weigh by their examples."""
    work = task()

    def run(pieces: int) -> dict[str, Tensor]:
        loop = Loop(work, Settings(accumulate=pieces))
        model = loop.start()
        terms = {"retain": Term(work.retain, work.nll), "forget": Term(work.forget, lambda m, b: -work.nll(m, b), 0.1)}
        loop.minimise(model, terms, lr=0.1, steps=5, batch_size=30, optimiser="sgd")
        return dict(model.named_parameters())

    whole = run(1)
    assert difference(whole, run(accumulate)) < bound(5, whole)


def test_a_step_by_hand() -> None:
    """SGD without momentum: θ₁ = θ₀ − lr·(w₁·∇mean₁ + w₂·∇mean₂ + ∇penalty), each over its own batch."""
    work = task()
    loop = Loop(work)
    model = loop.start()
    twin = work.copy_of_original()
    rows = {n: Order(s, 8, 0, 0, n).draw(0) for n, s in (("retain", work.retain), ("forget", work.forget))}
    loss = 0.5 * work.nll(twin, work.retain.batch(rows["retain"])).mean()
    loss = loss - 2 * work.nll(twin, work.forget.batch(rows["forget"])).mean()
    (loss + 0.01 * weights_sum(twin)).backward()
    terms = {"retain": Term(work.retain, work.nll, 0.5), "forget": Term(work.forget, lambda m, b: -work.nll(m, b), lambda t: 2.0)}
    loop.minimise(model, terms, lr=0.1, steps=1, batch_size=8, optimiser="sgd", momentum=0.0,
                  penalty=lambda m, share: 0.01 * weights_sum(m))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q - 0.1 * q.grad, atol=1e-6)


def test_adam_by_hand_with_shares_of_the_rate() -> None:
    """Two steps of Adam, β₁ = 0: θ ← θ − r·lr·g/(√v̂ + ε), g cut at ±c, v̂ = (β₂v + (1 − β₂)g²)/(1 − β₂ᵗ), r of one parameter ¼."""
    work, cut, lr = task(), 0.05, 0.01
    loop = Loop(work)
    model, twin = loop.start(), work.copy_of_original()
    slower = next(name for name, _ in twin.named_parameters())
    moments = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    order, was_cut = Order(work.retain, 8, 0, 0, "retain"), False
    for step in (0, 1):
        twin.zero_grad()
        work.nll(twin, work.retain.batch(order.draw(step))).mean().backward()
        with torch.no_grad():
            for name, p in twin.named_parameters():
                was_cut |= bool((p.grad.abs() > cut).any())
                g = p.grad.clamp(-cut, cut)
                moments[name] = 0.9 * moments[name] + 0.1 * g.square()
                p -= (0.25 if name == slower else 1.0) * lr * g / ((moments[name] / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8)
    loop.minimise(model, {"retain": Term(work.retain, work.nll)}, lr=lr, steps=2, batch_size=8, optimiser="adam", beta1=0.0,
                  beta2=0.9, clip_value=cut, rates={slower: 0.25})
    assert was_cut
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_the_state_of_an_optimiser_is_known_by_name_whatever_its_groups() -> None:
    params = {name: nn.Parameter(torch.randn(size)) for name, size in (("a", 2), ("b", 3), ("c", 4))}
    made = [optimise.optimiser("adam", params, 0.1, 0.0, 0.9, rates={"b": 0.5}) for _ in range(2)]   # groups a, c and b
    assert [group["share"] for group in made[0].param_groups] == [1.0, 0.5]
    for p in params.values():
        p.grad = torch.randn(p.shape)
    made[0].step()
    optimise.load_state(made[1], params, optimise.state_tensors(made[0], params), lambda value, p: value)
    for p in params.values():
        assert made[0].state[p].keys() == made[1].state[p].keys()
        assert all(torch.equal(made[0].state[p][key], made[1].state[p][key]) for key in made[0].state[p])


def weights_sum(model: nn.Module) -> Tensor:
    return sum(p.square().sum() for p in model.parameters())


def test_a_term_takes_part_in_every_so_many_steps() -> None:
    work, seen = task(), []

    def watched(name: str) -> Callable[[nn.Module, Batch], Tensor]:
        return lambda m, b: (seen.append((name, sorted(b.index.tolist()))), work.nll(m, b))[1]

    loop = Loop(work)
    terms = {"a": Term(work.retain, watched("a"), every=2), "b": Term(work.forget, watched("b"), every=3)}
    loop.minimise(loop.start(), terms, lr=1e-3, steps=7, batch_size=4)
    assert [name for name, _ in seen] == ["a", "b", "a", "b", "a", "a", "b"]   # steps 0, 2, 3, 4, 6; nothing at 1 and 5
    first = [rows for name, rows in seen if name == "b"]
    assert not set(first[0]) & set(first[1])   # the next batch, though steps were left out


def test_neither_epochs_nor_steps_is_an_error() -> None:
    work = task()
    loop = Loop(work)
    with pytest.raises(ValueError, match="epochs or steps"):
        loop.minimise(loop.start(), {"a": Term(work.retain, work.nll)}, lr=1.0)


def test_epochs_count_passes_over_the_named_term() -> None:
    work = task()
    loop = Loop(work)
    terms = {"retain": Term(work.retain, work.nll), "forget": Term(work.forget, work.nll)}
    loop.minimise(loop.start(), terms, lr=1e-3, epochs=1.5, over="forget", batch_size=16)
    assert loop.cost.steps == math.ceil(1.5 * 3)   # 40 examples, 3 batches
    assert loop.cost.examples == sum(len(Order(s, 16, 0, 0, n).draw(k)) for k in range(5)
                                     for n, s in (("retain", work.retain), ("forget", work.forget)))


# -- divergence -----------------------------------------------------------------------------------------------------------


def test_divergence_is_an_error_and_names_the_loss() -> None:
    work = task()
    loop = Loop(work)
    with pytest.raises(Diverged, match=r"the up loss became .* before step"):
        ascend(loop, lr=1e25, optimiser="sgd")


def test_a_model_of_nan_is_not_handed_out() -> None:
    loop = Loop(task())
    model = loop.start()
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    with pytest.raises(Diverged, match=r"head\.bias"):
        loop.finish(model)


# -- budgets, precision ------------------------------------------------------------------------------------------------


def test_budget_of_steps_counts_over_calls() -> None:
    loop = Loop(task(), Settings(max_steps=7))
    model = loop.start()
    for _ in range(3):
        loop.minimise(model, {"a": Term(loop.task.retain, loop.task.nll)}, lr=1e-3, steps=5)
    assert loop.cost.steps == 7
    assert loop.notes == ["stopped early by the budget of 7 steps"]


def test_budget_of_examples_is_never_exceeded() -> None:
    """Batches of 8 fit three times into 31."""
    loop = Loop(task(), Settings(max_examples=31))
    loop.minimise(loop.start(), {"a": Term(loop.task.retain, loop.task.nll)}, lr=1e-3, steps=5, batch_size=8)
    assert (loop.cost.steps, loop.cost.examples) == (3, 24)
    assert loop.notes == ["stopped early by the budget of 31 examples"]


def test_a_budget_that_is_just_enough_is_not_mentioned() -> None:
    loop = Loop(task(), Settings(max_steps=5))
    ascend(loop, lr=1e-3, steps=5)
    assert loop.cost.steps == 5 and not loop.notes


def test_budget_of_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(task(), Settings(max_minutes=0.5))
    monkeypatch.setattr(Loop, "elapsed", lambda self: 10.0 * self.cost.steps)   # ten seconds a step
    ascend(loop, lr=1e-3)
    assert loop.cost.steps == 3
    assert loop.notes == ["stopped early by the budget of 0.5 minutes"]


def test_bfloat16_runs_and_keeps_float32_weights() -> None:
    work = task()
    models = []
    for precision in ("float32", "bfloat16"):
        loop = Loop(work, Settings(precision=precision))
        said = loop.reference("logits", work.outputs, work.retain)
        model = loop.start()
        terms = {"retain": Term(work.retain, work.nll),
                 "near": Term(work.retain, lambda m, b, said=said: work.divergence(said(b), work.outputs(m, b), b))}
        loop.minimise(model, terms, lr=1e-3, steps=5)
        models.append(loop.finish(model).model)
    assert all(p.dtype == torch.float32 for p in models[1].parameters())
    difference = float((weights(models[0]) - weights(models[1])).abs().max())
    assert 0 < difference < 0.02


def test_what_a_machine_cannot_do_is_refused() -> None:
    with pytest.raises(RequestError, match="float16"):
        Loop(task(), Settings(precision="float16"))
    if not torch.cuda.is_available():
        with pytest.raises(RequestError, match="no GPU"):
            Loop(task(), Settings(device="cuda"))
    with pytest.raises(OutOfRange, match="max_steps"):
        Settings(max_steps=0)


# -- tables of the original --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache_mb", [1024.0, 0.0])
@pytest.mark.parametrize("folder", [False, True])
def test_looked_up_equals_asked(cache_mb: float, folder: bool, tmp_path: Path) -> None:
    work = task()
    loop = Loop(work, Settings(cache_mb=cache_mb), folder=tmp_path if folder else None)
    asked = []

    def ask(model: nn.Module, batch: Batch) -> Tensor:
        asked.append(len(batch))
        return work.outputs(model, batch)

    said = loop.reference("logits", ask, work.retain, batch_size=7)
    batch = work.retain.batch([5, 100, 3])
    assert torch.allclose(said(batch), work.outputs(work.original, batch), atol=1e-6)
    before = len(asked)
    said(batch)
    assert len(asked) - before == (1 if cache_mb == 0 else 0)
    said(batch.replace(drawn=True))
    assert asked[-1] == 3   # random draws are never looked up
    assert bool(loop.notes) == (cache_mb == 0)


def test_tables_of_sequences_are_as_wide_as_the_batch() -> None:
    """Answers of a sequence model are T − 1 wide; what is looked up must fit beside the model's own answer."""
    lengths = torch.tensor([3, 7, 5, 4])
    split = Split({"ids": torch.arange(28).view(4, 7) % 5, "length": lengths}, "retain", padding={"ids": 0})
    loop = Loop(task())

    def shifted(model: nn.Module, batch: Batch) -> Tensor:
        return (batch.ids[:, 1:] * 2.0).unsqueeze(-1).expand(-1, -1, 3)

    def fixed(model: nn.Module, batch: Batch) -> Tensor:
        return torch.stack([batch.length, -batch.length], 1).float()

    for ask in (shifted, fixed):
        said = loop.reference("said", ask, split, batch_size=2)
        for rows in ([0], [0, 3], [2, 0, 3], [0, 1]):
            batch = split.batch(rows)
            found, now = said(batch), ask(loop.task.original, batch)
            assert found.shape == now.shape
            for place, row in enumerate(rows):   # beyond an example's own length there is padding
                own = int(lengths[row]) - 1 if ask is shifted else None
                assert torch.equal(found[place, :own], now[place, :own])
        piece = split.batch([0, 1]).part(slice(0, 1))   # a piece keeps the width of its batch
        assert said(piece).shape == ask(loop.task.original, piece).shape


# -- journal -----------------------------------------------------------------------------------------------------------


def test_the_log_has_means_over_examples(tmp_path: Path) -> None:
    work = task()
    loop = Loop(work, folder=tmp_path)
    ones = Term(work.forget, lambda m, b: work.nll(m, b) * 0 + (b.index < 10).float())
    loop.minimise(loop.start(), {"forget": ones}, lr=1e-2, epochs=1, batch_size=16, schedule="linear")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    counts = [min(16, 40 - 16 * k) for k in range(3)]
    assert sum(line["forget"] * n for line, n in zip(lines, counts, strict=True)) == pytest.approx(10)
    assert [line["lr"] for line in lines] == pytest.approx([1e-2, 2e-2 / 3, 1e-2 / 3])


def test_tensorboard_on_request(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    loop = Loop(task(), Settings(tensorboard=True), folder=tmp_path, title="run")
    ascend(loop, lr=1e-3, steps=2)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_tensorboard_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(RequestError, match=r"lethe-unlearning\[track\]"):
        Loop(task(), Settings(tensorboard=True), folder=tmp_path)


@config
class Doubled:
    """A member from elsewhere."""

    def gradients(self, params: list[nn.Parameter], backward: Callable[[], list[Tensor]]) -> list[Tensor]:
        return [2 * g for g in backward()]


def test_state_of_the_model_and_the_original_is_restored() -> None:
    work = task()
    loop = Loop(work, modifiers=Modifiers(perturb=Doubled()), watchdog=Watchdog(loss=99))
    before, modes = state_fingerprint(work.original), [m.training for m in work.original.modules()]
    outcome = loop.finish(ascend(loop, lr=1e-3, steps=3))
    assert state_fingerprint(work.original) == before
    assert [m.training for m in work.original.modules()] == modes
    assert not any(p.requires_grad for p in work.original.parameters())
    assert not outcome.model.training and all(p.requires_grad for p in outcome.model.parameters())
    shared = {v.data_ptr() for v in named_tensors(work.original).values()}
    assert not shared & {v.data_ptr() for v in named_tensors(outcome.model).values()}


def test_device_auto_stores_the_name_of_the_device_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(device="auto") == Settings(device=accelerator())
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert plain(Settings(device="auto"))["device"] == "cpu"
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    assert plain(Settings(device="auto"))["device"] == "cuda"
