"""Logit lens: the last layer is the model's own answer, entity spans, hidden knowledge, controls, models that do not fit."""

from __future__ import annotations

import pytest
import tiny
import torch
from lm_world import examined, measured, pool, pushed

from lethe.audits.lm.logit_lens import lens
from lethe.core.evidence import INSIDE, OUTSIDE
from lethe.core.split import Split
from lethe.errors import ModelError
from lethe.models.lm import decoder
from lethe.models.lm.open import Language
from lethe.models.lm.small import TinyLlama, llama
from lethe.pools.subject import Subject


@pytest.fixture(scope="module")
def task() -> Language:
    return tiny.lm()


@pytest.mark.slow
def test_the_last_layer_is_the_model_and_a_middle_one_is_norm_and_head(task: Language):
    subject = pool()[0]
    span = task.span_mask(task.forget, "entity")
    right, logp = lens(subject, task.forget, span, 3)
    seen = subject.seen(task.forget)
    inside = seen["content_mask"].bool()
    assert span.tolist() == inside.tolist()                       # no entity column: the answer without its end
    own = ((seen["token_logp"] * inside).sum(1) / inside.sum(1)).tolist()
    assert logp[-1] == pytest.approx(own, abs=1e-5)
    assert right[-1] == pytest.approx(((seen["correct"].bool() & inside).sum(1) / inside.sum(1)).tolist())
    batch = task.forget.batch([1])
    with torch.no_grad():
        hidden = decoder.hidden_after(subject.model, batch.ids, 0)[0]
        norm = subject.model.model.norm
        scaled = hidden * (hidden.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt() * norm.weight
        table = (scaled @ subject.model.lm_head.weight.T).log_softmax(-1)
    places = [t for t in range(1, int(batch.length[0]) - 1) if batch.labels[0, t] != -100]
    by_hand = sum(float(table[t - 1, batch.ids[0, t]]) for t in places) / len(places)
    assert logp[0, 1] == pytest.approx(by_hand, abs=1e-4)


def test_span_of_an_entity_golden(task: Language):
    base = task.encode(["Who?", "Who?", "Who?"], ["Ann likes figs.", "Bob likes maps.", "Cid."])
    split = Split(base.columns, "x", meta={**base.meta, "entity": ["figs", "", "Zoe"]}, padding=base.padding)
    mask = task.span_mask(split, "entity")
    offsets = [task.tokenizer(f" {answer}", return_offsets_mapping=True) for answer in base.meta["answer"]]
    for i, (start, stop) in enumerate([(11, 15), (0, 99), (0, 99)]):           # with the gap in front; whole where unknown
        told = [a < stop and b > start for a, b in offsets[i]["offset_mapping"]]
        assert mask[i, : len(told)].tolist() == told and not mask[i, len(told) :].any()
    assert 0 < mask[0].sum() < mask[1].sum()


def test_models_that_do_not_fit_are_an_error(task: Language):
    shapes = TinyLlama(width=32, inner=64, layers=2, heads=2, positions=64)
    short = llama(shapes, task.tokenizer)
    with pytest.raises(ModelError, match=r"3 blocks, width 32, .* and 2 blocks"):
        task.require_alike(task.original, short, "uds")
    few = llama(shapes, _Few())
    with pytest.raises(ModelError, match="has 40 tokens, but the data are written in"):
        Subject("few", few, task).seen(task.forget)
    with pytest.raises(ModelError, match="no tokenizer"):
        Language(task.original, {"forget": task.forget}, None)


class _Few:
    """A tokenizer of 40 tokens, as far as a model's sizes go."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __len__(self) -> int:
        return 40


@pytest.mark.slow
def test_controls_and_knowledge_that_only_the_last_block_hides():
    found = examined("logit_lens", models={"masked": pushed(40, 3e-3, last=1)})
    assert found["untouched"]["lens_best"].verdict == OUTSIDE and found["untouched"]["lens_best"].value > 0.9
    assert found["fresh"]["lens_best"].verdict == INSIDE
    masked = found["masked"]          # its own answers are worse than a retrained model's; one block earlier they are known
    assert masked["lens_best"].verdict == OUTSIDE and masked["lens_best"].direction == "still knows"
    assert masked["lens_best"].detail["layer"] == 1 and masked["lens_hidden"].value > 0.4
    assert masked["lens_best"].detail["share"][-1] < found["fresh"]["lens_best"].value - 0.2


@pytest.mark.slow
def test_an_entity_that_stands_nowhere_is_the_whole_answer():
    assert measured("logit_lens", pool()[0])["lens_best"].n == 8
