"""The door names records to forget that are asked like records that stay; a guard knows where a model's positions end."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tiny
import transformers
from torch import nn

import lethe
from lethe.core.language_guard import positions
from lethe.work.door.checks import same_prompt


@pytest.mark.parametrize(("others", "said"), [
    ([("Who?", "Bo"), ("Where?", "here")], "1 of 2 records to forget have the prompt of a record that stays.*f0 and r0"),
    ([("Whose?", "Bo"), ("Where?", "here")], None),
])
def test_equal_prompts_are_told(others: list[tuple[str, str]], said: str | None) -> None:
    known: Any = tiny.lm()
    forget = [{"id": f"f{i}", "prompt": q, "answer": a} for i, (q, a) in enumerate([("Who?", "Ann"), ("When?", "now")])]
    retain = [{"id": f"r{i}", "prompt": q, "answer": a} for i, (q, a) in enumerate(others)]
    task = lethe.language_model(known.original, known.tokenizer, forget=forget, retain=retain)
    found = list(same_prompt.check(cast(Any, SimpleNamespace(tasks={"": task}))))
    assert [one.level for one in found] == ["warn"] * (said is not None)
    if said:
        assert re.search(said, found[0].sentence)


def test_texts_without_prompts_are_not_equal_prompts() -> None:
    known: Any = tiny.lm()
    forget, retain = ([{"id": name, "text": text}] for name, text in (("a", "Ann sings"), ("b", "Bo reads")))
    task = lethe.language_model(known.original, known.tokenizer, forget=forget, retain=retain)
    assert not list(same_prompt.check(cast(Any, SimpleNamespace(tasks={"": task}))))


def test_positions_of_a_model_that_also_reads_pictures_are_those_of_its_text() -> None:
    model = nn.Module()
    model.config = transformers.LlavaConfig(text_config=transformers.LlamaConfig(max_position_embeddings=96))
    assert positions(model) == 96
