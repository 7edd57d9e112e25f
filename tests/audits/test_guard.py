"""Guard: what is wrapped is taken off and judged by what is under it."""

from __future__ import annotations

import pytest
import tiny
import torch
from fakes import refusal_filter, zeroed_column
from panels import pool, values
from torch import nn

from lethe.core.catalogue import load
from lethe.core.evidence import INSIDE
from lethe.core.modules import copied
from lethe.data.select import Where
from lethe.judge.auditor import examine
from lethe.judge.conclusions import conclude
from lethe.pools.subject import Subject

guard, scores = load("audits", "guard"), load("audits", "scores")
from lethe.audits.behaviour.guard import inside, same_numbers  # noqa: E402


def test_inside_finds_names_below_a_prefix_and_under_an_adapter():
    w, b = torch.ones(2, 3), torch.zeros(2)
    wanted = {"a.weight": w, "a.bias": b}
    assert inside(wanted, wanted) == wanted
    adapted = {"m.n.a.base_layer.weight": w, "m.n.a.base_layer.bias": b, "m.n.a.lora_A.weight": w}
    assert inside(adapted, wanted).keys() == wanted.keys()
    assert inside({"m.a.weight": w}, wanted) is None
    assert inside({"m.a.weight": w.T, "m.a.bias": b}, wanted) is None
    assert inside({"m.xa.weight": w, "m.xa.bias": b}, wanted) is None       # 'xa' is another name
    assert inside({"x.a.weight": w.T, "x.a.bias": b, "yy.a.weight": w, "yy.a.bias": b}, wanted) is not None


def test_same_numbers_golden():
    a, b = {"w": torch.tensor([1.0, 2, 3]), "b": torch.tensor([0.0])}, {"w": torch.tensor([1.0, 2, 4]), "b": torch.tensor([0.0])}
    assert same_numbers(a, b) == 0.75


def test_controls():
    task, (fresh, *references) = tiny.classification(Where(label=3)), pool(Where(label=3), 9)
    subjects = [Subject("filter", refusal_filter(task, 0), task, kind="guard"), Subject("row", zeroed_column(task, 0), task),
                Subject("fresh", fresh.model, task)]
    found = examine(task, subjects, Subject("original", task.original, task), references,
                    [(a, a.config()) for a in (scores, guard)])
    by = {name: {e.metric: e for e in items} for name, items in found.items()}
    filtered = by["filter"]
    assert filtered["forget_accuracy"].value == 0 and filtered["forget_accuracy"].verdict == INSIDE
    assert filtered["bare_score"].direction == "still knows" and filtered["bare_same_weights"].value == 1
    assert filtered["bare_score"].detail["says"] == "guard: the weights still know" and filtered["bare_score"].detail["wrapped"]
    assert by["original"]["bare_score"].direction == "still knows"
    assert by["original"]["bare_score"].detail["says"] == "nothing is wrapped around the model"
    assert by["row"]["bare_score"].value == 0
    assert by["row"]["row_restored_score"].value == by["original"]["bare_score"].value > 0.9
    assert conclude(found["fresh"]).verdict == INSIDE and by["fresh"]["bare_same_weights"].value < 0.01


def test_a_hook_is_left_behind_and_the_model_untouched():
    task = tiny.classification(Where(label=3))
    model = copied(task.original, trainable=False)
    model.register_forward_hook(lambda module, args, logits: logits - 50 * nn.functional.one_hot(torch.tensor(3), 4))
    subject = Subject("hooked", model, task)
    assert subject.numbers(task.forget, "score").mean() == 0
    found = values(guard, subject, (), Subject("o", task.original, task))
    assert found["bare_score"].value == Subject("o", task.original, task).numbers(task.forget, "score").mean()
    assert len(model._forward_hooks) == 1


def test_another_architecture_says_nothing():
    task = tiny.classification(Where(label=3))
    assert values(guard, Subject("x", nn.Sequential(nn.Linear(6, 4)), task), (), Subject("o", task.original, task)) == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")   # of peft, about transformers
def test_an_adapter_is_taken_off_a_language_model():
    from peft import LoraConfig, get_peft_model

    task = tiny.lm()
    model = get_peft_model(copied(task.original, trainable=True), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.fill_(0.5)
    original = Subject("o", task.original, task)
    subject = Subject("a", model, task, kind="adapter")
    found = values(guard, subject, (), original)
    before = original.numbers(task.forget, "score").mean()
    assert subject.numbers(task.forget, "score").mean() < 0.5 * before
    assert found["bare_score"].value == pytest.approx(before) and found["bare_same_weights"].value == 1
