"""The modifiers: golden numbers for each member, and each with two methods."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lethe.core.catalogue import load
from lethe.core.modules import named_tensors, state_fingerprint
from lethe.core.outcome import Outcome
from lethe.core.task import Task
from lethe.data.select import Where
from lethe.errors import LetheError, RequestError, UnknownName
from lethe.maths.importance import largest
from lethe.train.loop import Loop, Modifiers, Settings, Term
from lethe.train.modifiers import SEAMS, Choice, members, resolve
from lethe.train.modifiers.average.ema import Ema
from lethe.train.modifiers.average.swa import Swa
from lethe.train.modifiers.combine.alternate import Alternate
from lethe.train.modifiers.combine.disruption import Disruption
from lethe.train.modifiers.combine.normalised import Normalised
from lethe.train.modifiers.combine.pareto import Pareto
from lethe.train.modifiers.combine.sum import Sum
from lethe.train.modifiers.combine.surgery import Surgery
from lethe.train.modifiers.perturb.sam import Sam
from lethe.train.modifiers.weigh.exponential import Exponential
from lethe.train.modifiers.weigh.loss import Loss
from lethe.train.modifiers.weigh.uniform import Uniform


def task() -> Task:
    return tiny.TASKS["classification"]()


def neggrad_plus(loop: Loop) -> Outcome:
    method = load("methods", "neggrad_plus")
    return method.run(method.config(epochs=2, lr=0.05), loop.task.granted(method.needs), loop)


def ascent(loop: Loop) -> Outcome:
    """Gradient ascent on the forget set alone, by AdamW: one term, moments, weight decay."""
    model = loop.start()
    loop.minimise(model, {"forget": Term(loop.task.forget, lambda m, b: -loop.task.nll(m, b))}, lr=3e-3, steps=5,
                  batch_size=16, weight_decay=0.1)
    return loop.finish(model)


METHODS = [neggrad_plus, ascent]
OPTIONS = {
    "where": {"all": {}, "names": {"patterns": ["head.*"]}, "lora": {"rank": 2}, "saliency": {}, "magnitude": {"density": 0.3},
              "sara": {"threshold": 0.1}, "expert": {}, "grip": {}},
    "combine": {"sum": {}, "alternate": {}, "surgery": {}, "disruption": {}, "normalised": {"ratio": 0.5}, "pareto": {},
                "dual_optim": {}, "sift": {"rank": 2}},
    "perturb": {"none": {}, "sam": {}},
    "average": {"last": {}, "ema": {"decay": 0.5}, "swa": {"start": 1}},
    "weigh": {"uniform": {}, "loss": {}, "exponential": {}},
}


ELSEWHERE = {"expert", "grip"}   # need a mixture of experts: test_expert, test_grip


@pytest.mark.parametrize("run", METHODS)
@pytest.mark.parametrize(("seam", "name"), [(seam, name) for seam in SEAMS for name in OPTIONS[seam]
                                              if name not in ELSEWHERE])
def test_every_member_works_with_different_methods(seam: str, name: str, run: Callable[[Loop], Outcome]) -> None:
    """The model changes, the original does not, twice gives the same bits, and all but the neutral members matter."""
    # a class that is to vanish does not conflict with the others, so surgery would change nothing; single examples do
    work = tiny.classification(Where(fraction=0.25)) if name == "surgery" else task()
    before = state_fingerprint(work.original)
    modifiers = {seam: {"name": name, **OPTIONS[seam][name]}}
    once, twice = (run(Loop(work, Settings(seed=1), Modifiers(**modifiers))).model for _ in range(2))
    assert state_fingerprint(once) == state_fingerprint(twice) != before
    assert state_fingerprint(work.original) == before
    plain = run(Loop(work, Settings(seed=1))).model
    neutral = name in ("all", "sum", "none", "last", "uniform") or (seam == "combine" and run is ascent)
    assert (state_fingerprint(once) == state_fingerprint(plain)) == neutral


def test_every_member_is_tested() -> None:
    """A new member of a seam needs an entry in OPTIONS."""
    for seam in SEAMS:
        assert set(members(seam)) == set(OPTIONS[seam])


def test_names_and_options_are_checked() -> None:
    with pytest.raises(UnknownName, match="did you mean sam"):
        Modifiers(perturb="sma")
    with pytest.raises(RequestError, match="names no member"):
        Modifiers(average={"decay": 0.9})
    with pytest.raises(LetheError, match="rho"):
        Modifiers(perturb={"name": "sam", "rho": -1})
    assert resolve("average", Ema(decay=0.7)) == Ema(decay=0.7)


# -- combine -----------------------------------------------------------------------------------------------------------


def steps_of(member: object, terms: Sequence[str], table: dict[str, list[float]]) -> list[list[float]]:
    """The gradients that a member applies, where `table` has each term's gradient."""
    applied: list[list[float]] = []

    def gradients(names: Sequence[str]) -> list[Tensor]:
        return [torch.tensor([table[n] for n in names]).sum(0)]

    member.step(terms, gradients, lambda grads: applied.append(grads[0].tolist()))
    return applied


def test_combine_golden() -> None:
    table = {"retain": [1.0, 0.0], "forget": [-2.0, 3.0], "other": [0.0, 1.0]}
    assert steps_of(Sum(), ["retain", "forget"], table) == [[-1.0, 3.0]]
    assert steps_of(Alternate(), ["retain", "forget"], table) == [[1.0, 0.0], [-2.0, 3.0]]
    # forget·retain = −2 < 0: forget loses (−2/1)·(1, 0) and becomes (0, 3); the sum is (1, 3), whichever comes first
    assert steps_of(Surgery(), ["retain", "forget"], table) == [[1.0, 3.0]]
    assert steps_of(Surgery(), ["forget", "retain"], table) == [[1.0, 3.0]]
    # retain gives way instead: retain·forget/‖forget‖² = −2/13, (1, 0) + 2/13·(−2, 3) + (−2, 3) = (−17/13, 45/13)
    assert steps_of(Surgery(yields="retain"), ["retain", "forget"], table)[0] == pytest.approx([-17 / 13, 45 / 13])
    # against retain + other = (1, 1) the product is +1: nothing is lost
    assert steps_of(Surgery(), ["retain", "forget", "other"], table) == [[-1.0, 4.0]]
    # signs differ in the first entry, and in the second, where retain is 0: nothing of forget is left
    assert steps_of(Disruption(), ["retain", "forget"], table) == [[1.0, 0.0]]
    # against retain + other = (1, 1) the second entry stays; the other way round (1, 0) keeps nothing beside (−2, 4)
    assert steps_of(Disruption(), ["retain", "forget", "other"], table) == [[1.0, 4.0]]
    assert steps_of(Disruption(yields="retain"), ["retain", "forget", "other"], table) == [[-2.0, 4.0]]
    # forget of length √13 is given half the length of retain
    assert steps_of(Normalised(ratio=0.5), ["retain", "forget"], table)[0] == pytest.approx([1 - 1 / 13**0.5, 1.5 / 13**0.5])
    assert steps_of(Normalised(yields="retain"), ["retain", "forget"], table)[0] == pytest.approx([-2 + 13**0.5, 3.0])
    # the shortest point between (−2, 3) and (1, 0) is (0.5, 0.5): forget counts 1/6; an own side does not matter for two
    assert steps_of(Pareto(), ["retain", "forget"], table)[0] == pytest.approx([0.5, 0.5])
    # with three it does: between (1, 0) and (−2, 4) the share of the latter is 3/25
    assert steps_of(Pareto(first="retain"), ["retain", "forget", "other"], table)[0] == pytest.approx([16 / 25, 12 / 25])
    for member in (Surgery(), Disruption(), Normalised(), Pareto()):
        assert steps_of(member, ["forget"], table) == [[-2.0, 3.0]]


# -- perturb -----------------------------------------------------------------------------------------------------------


def test_sam_golden_and_puts_the_weights_back() -> None:
    """f = θ₁² + 2θ₂² at (3, 1): g = (6, 4), ‖g‖ = √52; with ρ = √52/2 the point is (6, 3) and its gradient (12, 12)."""
    p = nn.Parameter(torch.tensor([3.0, 1.0]))

    def backward() -> list[Tensor]:
        return [torch.stack([2 * p[0], 4 * p[1]]).detach()]

    found = Sam(rho=math.sqrt(52) / 2).gradients([p], backward)
    assert torch.allclose(found[0], torch.tensor([12.0, 12.0]))
    assert p.tolist() == [3.0, 1.0]


def test_sam_puts_the_weights_back_bit_for_bit_even_when_the_loss_fails() -> None:
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(50) * 10 ** float(k)) for k in range(-4, 4)]
    before, calls = [p.detach().clone() for p in params], []

    def backward() -> list[Tensor]:
        calls.append([p.detach().clone() for p in params])
        if len(calls) == 2:
            raise ArithmeticError
        return [torch.randn_like(p) for p in params]

    with pytest.raises(ArithmeticError):
        Sam(rho=3.0).gradients(params, backward)
    moved = torch.cat([a - b for a, b in zip(calls[1], before, strict=True)]).norm()
    assert float(moved) == pytest.approx(3.0, rel=1e-4)
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))


# -- average -----------------------------------------------------------------------------------------------------------


def path(member: object, points: Sequence[float]) -> float:
    """What is returned after a run through these points; the first is the start."""
    slow = {"w": torch.tensor([points[0]])}
    for step, point in enumerate(points[1:]):
        member.update(slow, {"w": torch.tensor([point])}, step)
    return float(slow["w"])


def test_average_golden() -> None:
    assert path(Ema(decay=0.75), [0.0, 4.0, 8.0]) == 2.75    # 0 → 1 → 0.75·1 + 0.25·8
    assert path(Swa(), [9.0, 1.0, 2.0, 6.0]) == pytest.approx(3.0)
    assert path(Swa(start=1), [9.0, 1.0, 2.0, 6.0]) == pytest.approx(4.0)
    assert path(Swa(start=7), [9.0, 1.0, 2.0, 6.0]) == 6.0   # never reached: the last point


def test_the_average_is_what_is_returned() -> None:
    """SGD without momentum on a linear loss: θ falls by lr per step, so the mean of three points is θ₀ − 2·lr."""
    work = task()

    def last_and_mean(average: Choice, own: str = "last") -> Tensor:
        loop = Loop(work, modifiers=Modifiers(average=average))
        model = loop.start()
        term = Term(work.forget, lambda m, b: m.head.bias.sum().expand(len(b)))
        loop.minimise(model, {"forget": term}, lr=0.1, steps=3, optimiser="sgd", momentum=0.0, average=own)
        return (loop.finish(model).model.head.bias - work.original.head.bias).detach()

    assert torch.allclose(last_and_mean("last"), torch.tensor(-0.3), atol=1e-6)
    assert torch.allclose(last_and_mean("swa"), torch.tensor(-0.2), atol=1e-6)
    assert torch.allclose(last_and_mean("last", own="swa"), torch.tensor(-0.2), atol=1e-6)   # the method's own choice
    # half of the way at every step from 0: −0.05, −0.125, −0.2125; what the user sets comes before the method's choice
    assert torch.allclose(last_and_mean({"name": "ema", "decay": 0.5}, own="swa"), torch.tensor(-0.2125), atol=1e-6)


# -- weigh -------------------------------------------------------------------------------------------------------------


def test_weigh_golden() -> None:
    losses = torch.tensor([-1.0, -4.0])
    assert Uniform().weights(losses, "forget") is None
    assert Loss().weights(losses, "retain") is None
    # 1/√1 : 1/√4 = 2 : 1, mean 1
    assert Loss(power=0.5).weights(losses, "forget").tolist() == pytest.approx([4 / 3, 2 / 3])
    assert Loss(power=0.0).weights(losses, "forget").tolist() == pytest.approx([1, 1])
    # e^{−1/3} : e^{−4/3} = e : 1
    e = math.e
    found = Exponential(temperature=3.0).weights(losses, "forget").tolist()
    assert found == pytest.approx([2 * e / (e + 1), 2 / (e + 1)])
    assert Exponential().weights(losses, "retain") is None
    hot = torch.tensor([2.0], requires_grad=True)
    assert not Loss().weights(hot, "forget").requires_grad and not Exponential().weights(hot, "forget").requires_grad


# -- where -------------------------------------------------------------------------------------------------------------


def changed(outcome: Outcome, original: nn.Module) -> dict[str, Tensor]:
    """Which entries differ, by name."""
    before = named_tensors(original)
    return {name: value != before[name] for name, value in named_tensors(outcome.model).items()}


ELSEWHERE = {"expert", "grip"}   # need a mixture of experts: test_expert, test_grip


@pytest.mark.parametrize("run", METHODS)
@pytest.mark.parametrize("where", [{"name": "names", "patterns": ["head.*"]}, "saliency", "magnitude"])
def test_what_may_not_move_stays_bit_identical(where: object, run: Callable[[Loop], Outcome]) -> None:
    """Momentum and weight decay included."""
    work = task()
    loop = Loop(work, modifiers=Modifiers(where=where))
    moved = changed(run(loop), work.original)
    allowed = loop._selection
    for name, entries in moved.items():
        assert name in allowed.params or not entries.any()
        if name in allowed.masks:
            assert not (entries & ~allowed.masks[name]).any()
    assert any(entries.any() for entries in moved.values())


def sorted_masks(scores: dict[str, Tensor], density: float) -> dict[str, Tensor]:
    """The same as `largest` by a full sort."""
    flat = torch.cat([value.flatten() for value in scores.values()])
    keep = torch.zeros(len(flat), dtype=torch.bool)
    keep[torch.argsort(flat, descending=True)[: round(density * len(flat))]] = True
    parts = keep.split([value.numel() for value in scores.values()])
    return {name: part.view_as(value) for part, (name, value) in zip(parts, scores.items(), strict=True)}


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_masks_equal_a_full_sort(density: float) -> None:
    work = task()
    scores = {name: p.detach().abs() for name, p in work.original.named_parameters()}
    by_magnitude = Loop(work, modifiers=Modifiers(where={"name": "magnitude", "density": density}))
    by_magnitude.start()
    found, expected = by_magnitude._selection.masks, sorted_masks(scores, density)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert sum(int(mask.sum()) for mask in found.values()) == round(density * sum(s.numel() for s in scores.values()))


def test_saliency_is_the_gradient_of_the_whole_forget_set() -> None:
    """Whatever the batch size: 40 examples in batches of 7 end with a short one."""
    work = task()
    model = work.copy_of_original().eval()
    work.nll(model, work.forget.batch(range(len(work.forget)))).sum().backward()
    expected = largest({name: p.grad.abs() for name, p in model.named_parameters()}, 0.5)
    for batch_size in (7, 256):
        loop = Loop(work, modifiers=Modifiers(where={"name": "saliency", "batch_size": batch_size}))
        loop.start()
        agree = torch.cat([(loop._selection.masks[name] == expected[name]).flatten() for name in expected])
        assert agree.float().mean() > 0.99   # entries at the threshold may fall either way by rounding


def test_names_without_a_match_are_refused() -> None:
    with pytest.raises(RequestError, match="match no parameter"):
        Loop(task(), modifiers=Modifiers(where={"name": "names", "patterns": ["layer9.*"]})).start()


ELSEWHERE = {"expert", "grip"}   # need a mixture of experts: test_expert, test_grip


@pytest.mark.parametrize("run", METHODS)
def test_lora_leaves_the_base_alone_and_exports_both_ways(run: Callable[[Loop], Outcome], tmp_path: Path) -> None:
    from peft import PeftModel

    work = task()
    outcome = run(Loop(work, modifiers=Modifiers(where={"name": "lora", "rank": 2})))
    assert outcome.kind == "adapter"
    base = {name.replace(".base_layer", ""): value for name, value in named_tensors(outcome.model).items()}
    for name, value in named_tensors(work.original).items():
        assert torch.equal(base[name], value)
    batch = work.forget.batch(range(10))
    said = work.outputs(outcome.model, batch).detach()
    assert not torch.allclose(said, work.outputs(work.original, batch), atol=1e-3)

    outcome.save(tmp_path / "out")
    assert torch.equal(said, work.outputs(outcome.model, batch).detach())   # saving merges a copy
    merged = work.copy_of_original().eval()
    merged.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    assert torch.allclose(work.outputs(merged, batch), said, atol=1e-5)
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 2
    adapted = PeftModel.from_pretrained(work.copy_of_original().eval(), str(tmp_path / "out" / "adapter"))
    assert torch.allclose(adapted(batch.x), said, atol=1e-5)


def test_lora_starts_where_the_original_is_and_is_drawn_by_the_seed() -> None:
    work = task()

    def start(seed: int) -> nn.Module:
        return Loop(work, Settings(seed=seed), Modifiers(where={"name": "lora", "rank": 2})).start()

    models = [start(1), start(1), start(2)]
    batch = work.forget.batch(range(10))
    for model in models:
        assert torch.equal(work.outputs(model.eval(), batch), work.outputs(work.original, batch))
    prints = [state_fingerprint(model) for model in models]
    assert prints[0] == prints[1] != prints[2]


def test_lora_without_a_match_is_refused() -> None:
    with pytest.raises(RequestError, match="match no linear layer"):
        Loop(task(), modifiers=Modifiers(where={"name": "lora", "targets": ["query"]})).start()


def test_a_member_from_elsewhere_can_be_given() -> None:
    halved = SimpleNamespace(weights=lambda losses, term: torch.full_like(losses, 0.5))
    work, seen = task(), []
    for weigh in (None, halved):
        loop = Loop(work, modifiers=Modifiers(weigh=weigh))
        model = loop.start()
        loop.minimise(model, {"retain": Term(work.retain, work.nll)}, lr=0.1, steps=1, optimiser="sgd", momentum=0.0)
        seen.append((model.head.bias - work.original.head.bias).detach())
    assert torch.allclose(seen[1], seen[0] / 2, atol=1e-7)
