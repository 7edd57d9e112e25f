"""ECO: the classifier's optimum, a corrupted pass by hand, the strength that is found, and what is not flagged."""

from __future__ import annotations

from pathlib import Path

import byhand
import pytest
import tiny
import torch

from lethe.core.families.language import LanguageTask
from lethe.core.guard import as_served
from lethe.core.language_guard import prompts_of
from lethe.methods.guard.eco import Corrupting, classifier, odds

OTHER = "Tell me what {} likes?"


def test_the_classifier_is_at_its_optimum() -> None:
    """At w the gradient of Σ share · log loss + ½ ‖w · std‖² is 0; two points of each class, worked with autograd."""
    a, b = torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.tensor([[-1.0, 0.5], [0.0, 2.0], [1.5, 3.0]])
    x, y = torch.cat([a, b]).double(), torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]).double()
    w = classifier(a, b).double().requires_grad_()
    share = torch.where(y > 0, 5 / 4, 5 / 6)
    loss = (share * torch.nn.functional.binary_cross_entropy_with_logits(odds(x, w), y, reduction="none")).sum()
    loss = loss + (w[:-1] * x.std(0, correction=0)).square().sum() / 2
    gradient, = torch.autograd.grad(loss, w)
    assert gradient.abs().max() < 1e-4 and float(odds(a, w.detach().float()).min()) > float(odds(b, w.detach().float()).min())


def test_a_corrupted_pass_by_hand() -> None:
    task = LanguageTask.of(tiny.lm())
    guard = byhand.outcome("eco", task, strength=3.0, dims=2).answering
    assert isinstance(guard, Corrupting)
    model = task.copy_of_original().eval()
    table = model.get_input_embeddings().weight
    assert guard.strength == pytest.approx(3 * float(table.detach().std()), rel=1e-5)
    flagged = guard.flagged(prompts_of(task.forget)).tolist()
    assert sum(flagged) >= 7
    i = flagged.index(True)
    batch, count = task.forget.batch([i]), len(prompts_of(task.forget)[i])
    embedded = table[batch.ids].detach().clone()
    embedded[0, :count, :2] += guard.strength * guard.noise[:count]
    logp = model(inputs_embeds=embedded).logits[0, :-1].log_softmax(-1)
    answer = batch.labels[0, 1:] != -100
    wanted = -logp[answer].gather(1, batch.labels[0, 1:][answer].unsqueeze(1)).mean()
    assert task.nll(guard, batch).item() == pytest.approx(float(wanted.detach()), abs=1e-4)


def test_it_finds_its_strength_and_leaves_the_rest(tmp_path: Path) -> None:
    """Forgotten answers become as likely as unseen ones. What is retained is bit for bit the same; other words are not flagged,
    and of 16 unseen people's prompts, which nobody forgot, some are: the promise is about prompts like the retained ones."""
    task = LanguageTask.of(tiny.lm())
    outcome = byhand.outcome("eco", task, search_steps=20)
    guard = outcome.answering
    assert isinstance(guard, Corrupting)

    def loss(model: torch.nn.Module, name: str) -> float:
        split = task.splits[name]
        return float(task.nll(model, split.batch(range(len(split)))).mean().detach())

    unseen = loss(task.original, "holdout")
    assert loss(task.original, "forget") < 0.3 < 0.75 * unseen < loss(guard, "forget") < 1.25 * unseen
    kept, asked = list(task.retain.column("prompt")), list(task.forget.column("prompt"))
    assert loss(guard, "retain") == loss(task.original, "retain")
    assert task.generate(guard, kept[:8]) == task.generate(task.original, kept[:8])
    assert sum(a != b for a, b in zip(task.generate(guard, asked), task.generate(task.original, asked), strict=True)) >= 7
    other = [prompt.replace("What does", "Tell me what").replace(" like?", " likes?") for prompt in asked]
    assert guard.flagged(prompts_of(task.encode(other, ["x"] * 8))).sum() <= 1
    again = as_served(outcome.save(tmp_path / "out"), outcome.model)
    assert task.generate(again, asked) == task.generate(guard, asked)


def test_a_wanted_loss_takes_the_place_of_unseen_data() -> None:
    task = LanguageTask.of(tiny.lm())
    near, far = (byhand.outcome("eco", task, target=target, search_steps=6).answering for target in (0.3, 3.0))
    assert isinstance(near, Corrupting) and isinstance(far, Corrupting) and near.strength < far.strength
