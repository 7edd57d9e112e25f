"""A sequence of requests: which records each names, that each starts from the result of the last, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import byhand
import numpy as np
import pytest
import torch
from running import run
from tiny import classification, diffusion, lm

import lethe
from lethe.core.concepts import Concept
from lethe.core.modules import state_fingerprint
from lethe.core.seeds import derive
from lethe.core.split import Split, concat
from lethe.data.shapes import shapes
from lethe.errors import LetheError, NeedsUnmet, OutOfRange, RequestError, WrongColumn
from lethe.methods.search.in_turn import InTurn, requests
from lethe.models.classification.task import Classification
from lethe.models.diffusion import small as tiny_diffusion
from lethe.models.diffusion.open import text_to_image
from lethe.models.diffusion.task import Diffusion

AUTHORS = Split({"x": torch.zeros(4, 1)}, "forget", meta={"author": [7, 7, 5, 9]})


@pytest.mark.parametrize(("options", "wanted"), [
    ({"by": "author"}, [[2], [0, 1], [3]]),
    ({"by": "author", "order": "descending", "sizes": (1, 2)}, [[3], [0, 1, 2]]),
    ({"by": "author", "sizes": (3,)}, [[0, 1, 2, 3]]),
    ({"parts": 3}, [[0, 1], [2], [3]]),
])
def test_which_records_each_request_names(options: dict[str, Any], wanted: list[list[int]]) -> None:
    assert [part.tolist() for part in requests(AUTHORS, InTurn(**options))] == wanted


def test_two_requests_by_hand() -> None:
    """Ascent on the first half, then on the second from there; what comes later is retained until its turn."""
    task = byhand.classification()
    half = (len(task.forget) + 1) // 2
    one, two = task.forget.subset(range(half), "forget"), task.forget.subset(range(half, len(task.forget)), "forget")
    found = byhand.run("in_turn", task, each={"name": "grad_diff", **byhand.ONE_STEP}, parts=2)
    n = len(task.retain)

    def kept(m: torch.nn.Module) -> torch.Tensor:   # R and the second half, weighed by their sizes
        return (n * byhand.nll(m, task.retain) + len(two) * byhand.nll(m, two)) / (n + len(two))

    wanted = byhand.steps(task, [lambda m: kept(m) - byhand.nll(m, one)])
    wanted = byhand.stepped(wanted, [lambda m: byhand.nll(m, task.retain) - byhand.nll(m, two)])
    byhand.assert_same(task, found, wanted, atol=1e-5)


def test_one_request_is_its_method() -> None:
    task, options = classification(), {"epochs": 2}
    outcome = run("in_turn", task, each={"name": "grad_diff", **options}, parts=1)
    alone = run("grad_diff", task, seed=derive(0, "rum", "request 1"), **options)
    assert state_fingerprint(outcome.model) == state_fingerprint(alone.model)
    assert outcome.cost.steps == alone.cost.steps


@pytest.mark.parametrize(("options", "error", "match"), [
    ({"parts": 1000}, OutOfRange, "1000 requests, but forget holds"),
    ({"by": "autor"}, WrongColumn, "no column 'autor'"),
    ({"by": "y", "sizes": (2, 3)}, OutOfRange, r"name 5 values of y, but forget has 1"),
    ({"each": "auto"}, RequestError, "would run methods itself"),
    ({"each": {"name": "grad_diff", "lrr": 1}}, RequestError, "lr"),
])
def test_what_is_no_sequence_is_refused_before_work(options: dict[str, Any], error: type[LetheError], match: str) -> None:
    with pytest.raises(error, match=match):
        lethe.forget(classification(), "in_turn", progress=False, **options)


def test_what_the_method_needs_and_checks_is_told_before_work() -> None:
    full = classification()
    bare = Classification(full.original, {"forget": full.forget})
    with pytest.raises(NeedsUnmet, match="retain"):
        lethe.forget(bare, "in_turn", progress=False)
    task = lm()
    plain = replace(task.forget, meta={**task.forget.meta, "prompt": [""] * len(task.forget)})
    with pytest.raises(RequestError, match="icul needs prompts with answers"):
        lethe.forget(task.replaced(task.original, forget=plain), "in_turn", each={"name": "icul"}, progress=False)


def test_a_guard_cannot_be_gone_on_from() -> None:
    with pytest.raises(RequestError, match="kind 'guard', from which the next part cannot start"):
        run("in_turn", lm(), each={"name": "icul", "forget_shots": 1, "retain_shots": 1}, parts=2)


def test_concept_after_concept_is_each_alone() -> None:
    """In the first request the second concept's prompts stay; in the second nothing is said of the first any more."""
    disk, cross = Concept("disk", prompts=("a red disk",)), Concept("cross", prompts=("a red cross", "a blue cross"))
    parts, keep = tiny_diffusion.pipeline(width=16), ["a red square"]
    parts.network = diffusion().copy_of_original()

    def task(*concepts: Concept, keep: list[str] = keep, network: torch.nn.Module = parts.network) -> Diffusion:
        return text_to_image(replace(parts, network=network), concepts, keep, images=shapes(32), guidance=1.0, steps=2,
                             judge=tiny_diffusion.judge(steps=100))

    whole = task(cross, disk)
    of_disk = np.asarray(whole.forget.meta["concept"]) == "disk"
    later = whole.forget.subset(~of_disk, "later")
    first = whole.replaced(whole.original, forget=whole.forget.subset(of_disk, "forget"),
                           retain=concat([whole.retain, later], "retain"))
    assert first.concepts == whole.concepts   # until it is told that this is all
    first.narrow()
    assert [one.concept for one in first.concepts] == ["disk"] and first.prompts["forget"] == ["a red disk"]
    assert first.prompts["keep"] == [*keep, "a red cross", "a blue cross"]
    found = run("in_turn", whole, each={"name": "uce"}, by="concept", order="descending")
    one = run("uce", task(disk, keep=[*keep, "a red cross", "a blue cross"]))
    two = run("uce", task(cross, network=one.model))
    assert state_fingerprint(found.model) == state_fingerprint(two.model) != state_fingerprint(run("uce", whole).model)
