"""UA, IRA, CRA: known answers, and the share that random pictures get."""

from __future__ import annotations

import pytest
import torch
from panels import values
from remembering import coloured, hidden, listening

from lethe.audits.diffusion.unlearncanvas import measure
from lethe.data.shapes import COLOURS, SHAPES, render
from lethe.pools.subject import Subject


def test_controls() -> None:
    task = coloured()
    before = values(measure, Subject("original", task.original, task))
    assert before["ua"].value < 0.1 and before["ira"].value > 0.9 and before["cra"].value > 0.9
    assert before["ira"].n == 5 * 12 and before["ua"].n == 5 * 4
    fresh = values(measure, Subject("retrained", listening(task, task.retain), task))
    assert fresh["ua"].value == 1 and fresh["ira"].value > 0.9
    crossed = values(measure, Subject("hidden", hidden(task), task))
    assert crossed["ua"].value == 1 and crossed["cra_target"].value > 0.9   # crosses of the colour that was asked


def test_random_pictures_get_one_minus_the_share_of_the_concept(monkeypatch: pytest.MonkeyPatch) -> None:
    task, rng = coloured(), torch.Generator().manual_seed(0)

    def drawn(model: object, prompts: list[str], seed: int) -> torch.Tensor:
        places = torch.randint(0, 4, (len(prompts), 2), generator=rng).tolist()
        return torch.stack([render(COLOURS[i], SHAPES[j]) for i, j in places])

    monkeypatch.setattr(task, "sample", drawn)
    found = values(measure, Subject("random", task.original, task), per_prompt=100)
    assert found["ua"].value == pytest.approx(0.75, abs=0.07)     # 1 − 1/4; 400 pictures: 3 standard errors
    assert found["ira"].value == pytest.approx(0.25, abs=0.04) and found["cra"].value == pytest.approx(0.25, abs=0.04)
    assert found["ira_worst"].value < found["ira"].value
