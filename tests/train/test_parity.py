"""`parity: open_unlearning`: one mean over the tokens of a batch, floored strength, stems, the end in the loss; and what that
code has by mistake, which nothing here does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import byhand
import lm_world
import numpy as np
import plain_lm
import pytest
import tiny
import torch
from torch import Tensor
from torch.nn.functional import softplus

import lethe
from lethe.audits.lm.mia_lm import gradient_norms
from lethe.core.modules import seeded
from lethe.core.outcome import Outcome
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.judge.panel import Panel
from lethe.maths.answers import token_shares
from lethe.maths.porter import stem
from lethe.maths.steering import steering_loss
from lethe.maths.tofu import forget_quality, rouge_l_recall, truth_ratio_geometric
from lethe.pools.subject import Subject

STEMS = {"caresses": "caress", "ponies": "poni", "ties": "tie", "died": "die", "spied": "spi", "dying": "die", "news": "news",
         "feed": "feed", "agreed": "agre", "plastered": "plaster", "sing": "sing", "troubled": "troubl", "sized": "size",
         "hopping": "hop", "falling": "fall", "failing": "fail", "filing": "file", "happy": "happi", "relational": "relat",
         "rational": "ration", "radicalli": "radic", "vietnamization": "vietnam", "operator": "oper", "geology": "geolog",
         "fully": "fulli", "triplicate": "triplic", "electrical": "electr", "adjustment": "adjust", "adoption": "adopt",
         "communism": "commun", "probate": "probat", "rate": "rate", "cease": "ceas", "controll": "control", "roll": "roll"}
Rows = Callable[[Any, Split], Tensor]


def pooled(values: Tensor, kept: Tensor) -> Tensor:
    """One mean over all tokens."""
    return (values * kept).sum() / kept.sum()


def retained(model: Any, split: Split) -> Tensor:
    values, kept = plain_lm.logp(model, split)
    return -pooled(values, kept)


def ascent(model: Any, split: Split) -> Tensor:
    return -retained(model, split)


def weighted(model: Any, split: Split) -> Tensor:
    values, kept = plain_lm.logp(model, split)
    return pooled(values.detach().exp() * values, kept)


def without_the_true(model: Any, split: Split) -> Tensor:
    """CE-U with the first token of every answer left alone."""
    logits, tokens, kept = plain_lm.seen(model, split)
    other = logits.detach().scatter(2, tokens.unsqueeze(2), float("-inf")).softmax(-1)
    first = kept & (kept.cumsum(1) == 1)
    return pooled(-(other * logits.log_softmax(-1)).sum(-1), kept & ~first)


def saturated(model: Any, split: Split) -> Tensor:
    values, kept = plain_lm.logp(model, split)
    p = values.detach().exp()
    return 0.1 * pooled(p**5 * (1 - p) * values, kept)


def lowered(model: Any, split: Split) -> Tensor:
    """UNDIAL over the tokens of the answers, with 10 nats taken from the true one's logit."""
    logits, tokens, kept = plain_lm.seen(model, split)
    target = plain_lm.before(tiny.lm().original, split)
    target = (target - 10 * torch.nn.functional.one_hot(tokens, target.shape[-1])).softmax(-1)
    return pooled(-(target * logits.log_softmax(-1)).sum(-1), kept)


def flat(model: Any, split: Split) -> Tensor:
    """PDU's loss where the answers' tokens are predicted; that code reads it one place later."""
    logits, _, kept = plain_lm.seen(model, split)
    return pooled((logits.amax(-1) - logits.mean(-1)) ** 2, kept)


def apart(model: Any, split: Split) -> Tensor:
    """KL from the original to the model, over the tokens of the answers."""
    (logits, _, kept), before = plain_lm.seen(model, split), plain_lm.before(tiny.lm().original, split).log_softmax(-1)
    return pooled((before.exp() * (before - logits.log_softmax(-1))).sum(-1), kept)


def preferring(model: Any, split: Split, alternates: tuple[str, ...] = ("I do not know.",) * 8) -> Tensor:
    """The preference's own mean is over examples in that code, too; the tiny task has one refusal."""
    told = tiny.lm().encode(list(split.column("prompt")), list(alternates))
    ratios = [plain_lm.sums(model, s) - plain_lm.sums(tiny.lm().original, s).detach() for s in (told, split)]
    return (20 * softplus(-0.1 * (ratios[0] - ratios[1]))).mean()


def negative(model: Any, split: Split) -> Tensor:
    """NPO's own mean is over examples in that code, too."""
    before = plain_lm.sums(tiny.lm().original, split).detach()
    return (20 * softplus(0.1 * (plain_lm.sums(model, split) - before))).mean()


@pytest.mark.parametrize(("name", "push", "options"), [
    ("grad_diff", ascent, {}), ("wga", weighted, {"beta": 1.0}), ("ce_u", without_the_true, {"alpha": 1.0}), ("npo", negative,
                                                                                                        {"warmup": 0}),
    ("satimp", saturated, {}), ("undial", lowered, {"alpha": 1.0}), ("idk_dpo", preferring, {}),
    ("pdu", flat, {"alpha": 1.0, "lr": 0.01, "epsilon": 9.0}),
])
def test_a_step_takes_the_mean_over_the_tokens_of_a_batch(name: str, push: Rows, options: dict[str, Any]) -> None:
    task = tiny.lm()
    wanted = byhand.steps(task, [lambda m: push(m, task.forget) + retained(m, task.retain)], lr=options.get("lr", byhand.LR))
    byhand.assert_same(task, byhand.run(name, task, parity="open_unlearning", **options), wanted, atol=2e-5)
    with pytest.raises(AssertionError):
        byhand.assert_same(task, byhand.run(name, task, **options), wanted, atol=2e-5)


def test_ascent_and_closeness_take_the_mean_over_the_tokens_of_a_batch() -> None:
    """Gradient ascent alone; and KL, which is nothing before the first step, beside it."""
    task = tiny.lm()
    both: Callable[[Any], Tensor] = lambda m: ascent(m, task.forget) + 9 * apart(m, task.retain)   # noqa: E731
    for name, options, wanted in (
        ("gradient_ascent", {}, byhand.steps(task, [lambda m: ascent(m, task.forget)])),
        ("grad_diff", {"alpha": 0.0, "kl": 9.0, "epochs": 2}, byhand.steps(task, [both] * 2)),
    ):
        byhand.assert_same(task, byhand.run(name, task, parity="open_unlearning", **options), wanted, atol=2e-5)
        with pytest.raises(AssertionError):
            byhand.assert_same(task, byhand.run(name, task, **options), wanted, atol=2e-5)


def test_the_multiplier_moves_by_the_mean_over_tokens() -> None:
    """PDU: λ' = 2 + 4·(L_R − 0.05), L_R over the tokens of the batch."""
    task, weights = tiny.lm(), [2.0]
    with torch.no_grad():
        weights.append(max(0.0, 2.0 + 4 * (float(retained(task.original.eval(), task.retain)) - 0.05)))
    wanted = byhand.steps(task, [lambda m, w=w: flat(m, task.forget) + w * retained(m, task.retain) for w in weights], lr=0.01)
    options = {"alpha": 2.0, "epsilon": 0.05, "dual_lr": 4.0, "warmup": 0.0, "lr": 0.01, "epochs": 2}
    byhand.assert_same(task, byhand.run("pdu", task, parity="open_unlearning", **options), wanted, atol=1e-5)


def test_alternates_are_told_one_by_one_and_the_rest_by_tokens() -> None:
    plain, others = tiny.lm(), ("Nobody.", "I do not know what this one likes.") * 4
    given = Split(plain.forget.columns, "forget", plain.forget.ids, {**plain.forget.meta, "alternate": others},
                  plain.forget.padding)
    task = plain.replaced(plain.original, forget=given)
    wanted = byhand.steps(plain, [lambda m: preferring(m, plain.forget, others) + retained(m, plain.retain)])
    byhand.assert_same(plain, byhand.run("alt_po", task, parity="open_unlearning"), wanted, atol=2e-5)


def test_shares_hold_when_a_batch_is_cut_and_need_texts() -> None:
    labels = torch.tensor([[-100, 5, -100], [-100, 5, 7]])
    assert torch.allclose(token_shares(labels), torch.tensor([2 / 3, 4 / 3]))
    assert token_shares(labels, skip=1).tolist() == [0.0, 2.0] and token_shares(labels, skip=2).tolist() == [0.0, 0.0]

    def run(**settings: Any) -> Outcome:
        return lethe.forget(tiny.lm(), "simnpo", parity="open_unlearning", lr=1e-2, epochs=1, optimiser="sgd", watchdog=False,
                            settings=lethe.Settings(device="cpu", **settings), progress=False)

    for a, b in zip(run().model.parameters(), run(accumulate=3).model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    with pytest.raises(RequestError, match="holds no texts"):
        lethe.forget(tiny.classification(), "grad_diff", parity="open_unlearning", progress=False)


def test_metrics_take_the_published_forms() -> None:
    task = tiny.lm()
    fresh = Subject("fresh", seeded(task.build, 3), task)

    def both(audit: str, subject: Subject = fresh) -> list[dict[str, Any]]:
        return [lm_world.measured(audit, subject, parity=parity) for parity in ("none", "open_unlearning")]

    ours, theirs = both("extraction")
    lengths = [len(row) - 1 for row in plain_lm.answers(*plain_lm.logp(fresh.model, task.forget))]   # without the end
    floor = [max(1 / n, one) for n, one in zip(lengths, ours["extraction_strength_forget"].per_sample, strict=True)]
    assert np.allclose(theirs["extraction_strength_forget"].per_sample, floor)
    assert ours["extraction_strength_retain"].value < theirs["extraction_strength_retain"].value

    ours, theirs = both("mia_lm", Subject("original", task.original, task))
    inside, outside = ([float(row.mean()) for row in plain_lm.answers(*plain_lm.logp(task.original, split))]
                       for split in (task.forget, task.holdout))   # with the end
    area = np.mean([(a > b) + 0.5 * (a == b) for a in inside for b in outside])
    assert theirs["loss_auc"].value == pytest.approx(area) and theirs["min_k_auc"].value == ours["min_k_auc"].value
    gradients = [torch.autograd.grad(-row[:-1].mean(), list(fresh.model.parameters()), retain_graph=True)   # without the end
                 for row in plain_lm.answers(*plain_lm.logp(fresh.model.requires_grad_(True), task.forget.subset([0, 1], "two")))]
    assert gradient_norms(fresh, task.forget)[:2] == pytest.approx([np.mean([float(g.norm()) for g in row]) for row in gradients])

    assert {word: stem(word) for word in STEMS} == STEMS   # the toolkit's values
    assert rouge_l_recall("He was singing", "He sings songs") == pytest.approx(1 / 3)
    assert rouge_l_recall("He was singing", "He sings songs", stemmed=True) == pytest.approx(2 / 3)


def test_tofu_stems_and_takes_the_mean_of_losses() -> None:
    from audits.test_tofu import people, untrained

    task = untrained(people())
    subject, other = Subject("subject", task.original, task), Subject("other", seeded(task.build, 1), task)
    ours, theirs = (lm_world.measured("tofu", subject, (other,), parity=parity, examples=8)
                    for parity in ("none", "open_unlearning"))
    assert theirs["truth_ratio_forget"].value == ours["truth_ratio_geometric_forget"].value != ours["truth_ratio_forget"].value
    assert theirs["truth_ratio_retain"].value != ours["truth_ratio_retain"].value
    ratios = [truth_ratio_geometric(*losses(one, task)) for one in (task.original, other.model)]
    for ending, wanted in (("", "p"), ("_log10", "log10_p"), ("_statistic", "statistic")):
        assert theirs[f"forget_quality{ending}"].value == pytest.approx(getattr(forget_quality(*ratios), wanted))


def losses(model: torch.nn.Module, task: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean losses of the paraphrased and of the wrong answers to the first questions that are examined.  -> [n], [n, k]"""
    part = Panel(task, Subject("subject", task.original, task), []).part(task.forget, 8)
    wrong = [list(row) for row in part.meta["perturbed_answer"]]
    columns = [part.meta["paraphrased_answer"], *zip(*wrong, strict=True)]
    said = [task.encode(list(part.meta["prompt"]), list(answers)) for answers in columns]
    table = np.array([[-float(row.detach().mean()) for row in plain_lm.answers(*plain_lm.logp(model, split))] for split in said])
    return table[0], table[1:].T


# -- what that code has by mistake -------------------------------------------------------------------------------------


def test_an_example_does_not_depend_on_its_batch() -> None:
    """There RMU divides by a b × b matrix, and UNDIAL averages over prompts and pads, whose label −100 it takes for a token."""
    task, rng = tiny.lm(), torch.Generator().manual_seed(0)
    hidden, target = torch.randn(3, 7, 4, generator=rng), torch.randn(4, generator=rng)
    counts = torch.arange(7) < torch.tensor([[2], [7], [4]])
    alone = torch.cat([steering_loss(hidden[i : i + 1], target, counts[i : i + 1]) for i in range(3)])
    assert torch.allclose(steering_loss(hidden, target, counts), alone)
    lengths = torch.arange(50) < torch.tensor([[5], [50]])   # there: (5 + 50)/2 · (1/5 + 1/50)/2 = 3.025
    assert steering_loss(torch.ones(2, 50, 4), torch.zeros(4), lengths).tolist() == [1.0, 1.0]

    def moved(rows: list[int]) -> Tensor:
        part = task.replaced(None, forget=task.forget.subset(rows, "forget"))
        return torch.cat([p.detach().flatten() for p in byhand.run("undial", part, alpha=0.0).parameters()])

    lengths = task.forget.columns["length"]
    rows = [int(lengths.argmin()), int(lengths.argmax())]
    assert lengths[rows[0]] < lengths[rows[1]]
    assert torch.allclose(moved(rows), (moved(rows[:1]) + moved(rows[1:])) / 2, atol=1e-6)


def test_the_original_is_asked_once_and_an_end_that_pads_counts() -> None:
    """There a second model is asked at every step, and the mask drops an end token that is the pad, too."""
    task = tiny.lm()
    asked: list[int] = []

    def count(model: torch.nn.Module, args: object, given: dict[str, Tensor]) -> None:
        asked.append(len(given["input_ids"]) if model is task.original else 0)   # copies of the model keep the hook

    handle = task.original.register_forward_pre_hook(count, with_kwargs=True)
    lethe.forget(task, "npo", epochs=5, watchdog=False, progress=False)
    handle.remove()
    assert sum(asked) == len(task.forget) + 2   # and two to see how wide its answers are

    words = task.tokenizer
    rows = [{"prompt": p, "answer": a} for p, a in zip(task.forget.meta["prompt"], task.forget.meta["answer"], strict=True)]
    before, pad = task.nll(task.original, task.forget.batch(range(8))), words.pad_token
    try:
        words.pad_token = words.eos_token
        other = lethe.language_model(task.original, words, forget=rows)
        assert torch.allclose(other.nll(other.original, other.forget.batch(range(8))), before, atol=1e-6)
    finally:
        words.pad_token = pad
