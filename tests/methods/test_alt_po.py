"""AltPO: two steps by hand on alternates of the data and on drawn ones, what drawing is, and plain text is refused."""

from __future__ import annotations

import byhand
import pytest
import tiny
import torch
from torch import Tensor, nn

from lethe.core.families.language import LanguageTask
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.models.lm.greedy import gumbel

BETA, ALPHA, LR = 0.5, 0.4, 0.05


def logp(model: nn.Module, split: Split) -> tuple[Tensor, Tensor]:
    labels = split.columns["labels"][:, 1:]
    kept = labels != -100
    each = model(input_ids=split.columns["ids"]).logits[:, :-1].log_softmax(-1)
    return (each.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2) * kept).sum(1), kept.sum(1)


def wanted(task: LanguageTask, forget: Split, alternates: list[list[str]]) -> nn.Module:
    """alternates: one list of answers for all of F per turn; one batch holds them all."""
    prompts = list(forget.column("prompt"))
    taught = [task.encode(prompts, answers) for answers in alternates]
    with torch.no_grad():
        before = [logp(task.original.eval(), split)[0] for split in (forget, *taught)]

    def objective(m: nn.Module) -> Tensor:
        true = logp(m, forget)[0] - before[0]
        terms = [-2 / BETA * torch.sigmoid(BETA * (logp(m, split)[0] - old - true)).log()
                 for split, old in zip(taught, before[1:], strict=True)]
        total, count = logp(m, task.retain)
        return torch.cat(terms).mean() - ALPHA * (total / count).mean()

    return byhand.steps(task, [objective] * 2, lr=LR)


def test_two_steps_with_alternates_of_the_data() -> None:
    plain = tiny.lm()
    answers = [[f"{who.split()[0]} likes salt.", "Nobody knows."] for who in plain.forget.column("answer")]
    given = Split(plain.forget.columns, "forget", plain.forget.ids, {**plain.forget.meta, "alternate": answers},
                  plain.forget.padding)
    task = plain.replaced(plain.original, forget=given)
    found = byhand.run("alt_po", task, beta=BETA, alpha=ALPHA, lr=LR, epochs=2)
    byhand.assert_same(task, found, wanted(plain, plain.forget, [[a for a, _ in answers], [b for _, b in answers]]), atol=1e-5)


def test_two_steps_with_alternates_that_the_original_invents(monkeypatch: pytest.MonkeyPatch) -> None:
    task, turns, temperatures = tiny.lm(), [], []
    drawn = type(task).drawn_texts

    def kept(self: LanguageTask, model: nn.Module, prompts: list[str], rng: torch.Generator, temperature: float, most: int
             ) -> list[str]:
        turns.append(drawn(self, model, prompts, rng, temperature, most))
        temperatures.append(temperature)
        return turns[-1]

    monkeypatch.setattr(type(task), "drawn_texts", kept)
    found = byhand.run("alt_po", task, beta=BETA, alpha=ALPHA, lr=LR, epochs=2, alternates=2, temperature=2.0, longest=8)
    (texts,), size = turns, len(task.forget)
    assert len(texts) == 2 * size and texts[:size] != texts[size:] and temperatures == [2.0]
    byhand.assert_same(task, found, wanted(task, task.forget, [texts[:size], texts[size:]]), atol=1e-5)


def test_drawing() -> None:
    """Of p = (.2, .3, .5) to the power 1/T, T = 2: (.447, .548, .707)/1.702; 40,000 draws are exact to .003."""
    logits = torch.tensor([0.2, 0.3, 0.5]).log().expand(40_000, 3)
    chosen = gumbel(torch.Generator().manual_seed(0), 2.0, 1.0)(logits, logits, logits).argmax(-1)
    torch.testing.assert_close(chosen.bincount() / 40_000, torch.tensor([0.2628, 0.3218, 0.4154]), atol=0.008, rtol=0)


def test_plain_text_is_refused() -> None:
    task = tiny.lm()
    bare = Split(task.forget.columns, "forget", task.forget.ids, padding=task.forget.padding)
    with pytest.raises(RequestError, match="without prompts"):
        byhand.run("alt_po", task.replaced(task.original, forget=bare))
