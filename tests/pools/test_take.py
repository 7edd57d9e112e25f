"""`lethe pool`: shares of the models that a request needs, trained by commands; a run then finds them all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import tiny
import yaml

from lethe.cli.pool import table, trained
from lethe.core.events import spoken
from lethe.errors import OutOfRange, RequestError, UnknownName
from lethe.pools.take import Take, take_of
from lethe.train.checkpoint import load_tensors
from lethe.work.execute import carry_out
from lethe.work.options import Options
from lethe.work.pool import places
from lethe.work.request import Request, parse


def content(folder: Path, **audit: Any) -> dict[str, Any]:
    """A request on an MLP whose original must be trained: 3 references, a fresh retrain, at most 4 shadows."""
    x, y = tiny.blobs(160, 0, "train").columns.values()
    np.savez(folder / "train.npz", x=x.numpy(), y=y.numpy())
    return {
        "family": "classification", "model": {"zoo": "mlp", "options": {"inputs": 6, "hidden": [16], "classes": 4}},
        "data": {"kind": "npz", "path": str(folder / "train.npz"), "holdout": 0.3}, "recipe": {"epochs": 2, "lr": 0.01},
        "forget": {"fraction": 0.2}, "output": str(folder / "runs"), "method": "finetune",
        "audit": {"references": 3, "shadows": 4, "audits": ["scores", {"name": "base", "models": 4}], **audit},
    }


def request(folder: Path, **audit: Any) -> Request:
    return parse(content(folder, **audit))


def state(asked: Request, folder: Path) -> list[str]:
    return [place.state for place in places(asked, Options(cache=folder / "cache"))]


def pool(asked: Request, folder: Path, take: str = "1/1", what: str = "all", list_only: bool = False, scenario: str | None = None,
         strategy: str = "serial") -> dict[str, Any]:
    """What `lethe pool --json` prints."""
    found: dict[str, Any] = json.loads(trained(asked, Options(cache=folder / "cache"), take_of(take), scenario, what, strategy,
                                               list_only, True))
    return found


def weights(folder: Path) -> dict[str, Any]:
    """Every tensor of every trained member."""
    return {f"{file.name}/{key}": value.numpy().tobytes() for file in (folder / "cache" / "pool").glob("*.safetensors")
            for key, value in load_tensors(file)[0].items()}


@pytest.mark.parametrize(("text", "error"), [
    ("3/2", OutOfRange), ("0/2", OutOfRange), ("-1/2", OutOfRange), ("1/0", OutOfRange), ("1", RequestError),
    ("a/b", RequestError), ("1/2/3", RequestError), ("", RequestError), ("1.5/2", RequestError),
])
def test_what_is_no_share_is_an_error(text: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="nothing was trained"):
        take_of(text)


def test_shares_have_every_member_once() -> None:
    members = list(range(11))
    dealt = [Take(i, 4).among(members) for i in range(1, 5)]
    assert sorted(one for share in dealt for one in share) == members and max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert Take(3, 20).among([1, 2]) == []


def test_shares_in_two_processes_equal_one_process_and_a_run_trains_nothing(tmp_path: Path) -> None:
    (tmp_path / "request.yaml").write_text(yaml.safe_dump(content(tmp_path)))
    words = ["pool", tmp_path / "request.yaml", "--cache", tmp_path / "cache", "--json"]
    both = [forked.started(tmp_path, *words, "--take", f"{share}/2") for share in (1, 2)]
    answers = [json.loads(one.ended().stdout) for one in both]
    assert [answer["trained"] for answer in answers] == [4, 4]
    asked, alone = request(tmp_path), tmp_path / "alone"
    assert pool(asked, tmp_path)["trained"] == 0
    assert pool(asked, alone)["trained"] == 8
    assert weights(tmp_path) == weights(alone) and len(weights(alone)) == 8 * 4
    said: list[str] = []
    report = carry_out(asked, Options(cache=tmp_path / "cache", listener=spoken(said.append)))
    assert report is not None and report.results.scenarios[0].references.strategy == "cache"
    assert not [text for text in said if "models:" in text], "the run trained models"


def test_members_are_listed_with_their_state(tmp_path: Path) -> None:
    asked = request(tmp_path)
    listed = pool(asked, tmp_path, list_only=True)
    assert listed["trained"] == 0 and not list((tmp_path / "cache").rglob("*.safetensors")), "--list has trained the original"
    assert [row["purpose"] for row in listed["members"]] == ["references"] * 3 + ["fresh retrain"] + ["shadows"] * 4
    assert {row["state"] for row in listed["members"]} == {"missing"}
    assert pool(asked, tmp_path, what="references")["trained"] == 4
    file = tmp_path / "cache" / "pool" / listed["members"][1]["file"]
    file.write_bytes(file.read_bytes()[:-3])
    assert state(asked, tmp_path) == ["done", "damaged", "done", "done", *["missing"] * 4]
    assert table(places(asked, Options(cache=tmp_path / "cache"))).splitlines()[-1] == "8 models: 1 damaged, 3 done, 4 missing"
    assert pool(asked, tmp_path, take="2/4")["trained"] == 2
    assert state(asked, tmp_path) == [*["done"] * 4, "missing", "done", "missing", "missing"]


def test_shadows_are_left_out_where_no_audit_asks_for_them(tmp_path: Path) -> None:
    def purposes(**audit: Any) -> set[str]:
        return {row["purpose"] for row in pool(request(tmp_path, **audit), tmp_path, list_only=True)["members"]}

    assert purposes(audits=["scores"]) == {"references", "fresh retrain"}
    assert purposes(audits=["base"], shadows=0) == {"references", "fresh retrain"}
    assert purposes(audits=["ulira"], references=0) == {"shadows", "unlearned retrained"}


def test_what_the_original_is_to_choose_is_not_listed_before_it_is_trained(tmp_path: Path) -> None:
    asked = parse({**content(tmp_path), "forget": {"worst_case": {"count": 6}}})
    with pytest.raises(RequestError, match="without --list trains it first"):
        pool(asked, tmp_path, list_only=True)
    pool(asked, tmp_path, what="references")
    assert state(asked, tmp_path)[:5] == [*["done"] * 4, "missing"] == [
        row["state"] for row in pool(asked, tmp_path, list_only=True)["members"][:5]]


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    asked = request(tmp_path)
    for error, words, options in ((UnknownName, "did you mean shadows", {"what": "shadow"}), (UnknownName, "pool strategy",
                                  {"strategy": "loops"}), (UnknownName, "scenario", {"scenario": "two"})):
        with pytest.raises(error, match=words):
            pool(asked, tmp_path, **options)


@pytest.mark.parametrize("strategy", ["serial", "processes"])
def test_a_killed_command_is_repeated(tmp_path: Path, strategy: str) -> None:
    wanted = {**content(tmp_path), "recipe": {"epochs": 60, "lr": 0.01}}
    (tmp_path / "request.yaml").write_text(yaml.safe_dump(wanted))
    words = ["pool", tmp_path / "request.yaml", "--cache", tmp_path / "cache", "--strategy", strategy]
    one = forked.started(tmp_path, *words)
    while not list(tmp_path.glob("cache/pool/*.safetensors")) and not os.waitid(
            os.P_PID, one.process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.01)
    os.kill(one.process, signal.SIGKILL)
    assert one.ended().status == -signal.SIGKILL
    time.sleep(1)   # workers end by themselves after the model they are at
    there = len(list(tmp_path.glob("cache/pool/*.safetensors")))
    assert 1 <= there < 8
    assert pool(parse(wanted), tmp_path)["trained"] == 8 - there
    alone = tmp_path / "alone"
    shutil.copytree(tmp_path / "cache" / "original", alone / "cache" / "original")
    pool(parse(wanted), alone)
    assert weights(tmp_path) == weights(alone)
