"""Several sequences in one row: log-probabilities and gradients as alone, and refused where they would not be."""

from __future__ import annotations

import inspect
from pathlib import Path

import lm_architectures as architectures
import pytest
import torch

from lethe.errors import RequestError
from lethe.models.lm import decoder, packing
from lethe.models.lm import open as lm

ROWS = [{**row, "prompt": row["prompt"] * (1 + i % 3)} for i, row in enumerate(architectures.people(8))]


def test_what_fits_shares_a_row() -> None:
    assert packing.rows_of([2, 6, 3, 4], 6) == [[1], [3, 0], [2]]   # 6 | 4 + 2 | 3
    assert packing.rows_of([5, 5], 5) == [[0], [1]] and packing.rows_of([5, 5], 10) == [[0, 1]]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_packed_sequences_have_the_numbers_of_sequences_alone(architecture: str, tmp_path: Path) -> None:
    """Also with gradients; that they were packed is seen by the shape of what the model reads."""
    folder = architectures.saved(architecture, tmp_path / "model")
    apart, together = (lm.language_model(folder, forget=ROWS, packing=packed) for packed in (False, True))
    batch = apart.forget.batch(range(8))
    found = []
    for task in (apart, together):
        model = task.copy_of_original().eval()   # dropout is drawn by rows
        read: list[torch.Size] = []
        forward = model.forward

        def noted(*, read=read, forward=forward, **given):   # type: ignore[no-untyped-def]
            read.append(given["input_ids"].shape)
            return forward(**given)

        noted.__signature__ = inspect.signature(forward)
        model.forward = noted
        task.nll(model, batch).sum().backward()
        with torch.no_grad():
            seen = task.observe(model, batch)
        found.append((task.token_logp(model, batch).detach(), task.outputs(model, batch).detach(), seen["token_logp"],
                      torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), read))
    one, other = found
    for mine, theirs in zip(one[:4], other[:4], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert other[4][0].numel() < packing.WORTH * one[4][0].numel()


def test_what_is_hooked_into_a_model_meets_single_rows(tmp_path: Path) -> None:
    task = lm.language_model(architectures.saved("llama", tmp_path / "model"), forget=ROWS, packing=True)
    batch, seen = task.forget.batch(range(8)), []
    with decoder.rewriting(task.original, lambda _, hidden: seen.append(hidden.shape[:2]) or hidden, [0]), torch.no_grad():
        task.nll(task.original, batch)
    assert seen == [batch.ids.shape]


@pytest.mark.parametrize(("architecture", "said"), [
    ("bloom", "takes no mask"), ("mamba", "takes no mask"), ("mistral", r"looks 16 tokens back, and sequences may have \d+"),
    ("qwen3_next", "predicts otherwise"), ("gemma2", "looks 16 tokens back")])
def test_models_that_read_rows_otherwise_are_refused(architecture: str, said: str, tmp_path: Path) -> None:
    folder = architectures.saved(architecture, tmp_path / "model")
    with pytest.raises(RequestError, match=said):
        lm.language_model(folder, forget=ROWS, packing=True)
