"""docs/pools.md: its backend trains, its manifest deals out every share, its commands and strategies exist."""

from __future__ import annotations

import re
from pathlib import Path

import typer
import yaml
from test_backends import equals_serial, over

from lethe.cli.main import app
from lethe.pools import backends
from lethe.pools.contract import Backend
from lethe.pools.take import take_of

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "pools.md").read_text()


def block(language: str) -> str:
    """The first fenced block in this language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_the_backend_of_the_page_trains(tmp_path: Path) -> None:
    names: dict[str, type[Backend]] = {}
    exec(block("python"), names)
    backend, work = names["Backwards"](), over(tmp_path, 2, epochs=1)
    assert backend.obstacle(work) == ""
    backend.train(work)
    assert equals_serial(tmp_path, 2, epochs=1)


def test_the_manifest_takes_every_share() -> None:
    spec = yaml.safe_load(block("yaml"))["spec"]
    (command,) = spec["template"]["spec"]["containers"][0]["args"]
    shares = [re.sub(r"\$\(\(JOB_COMPLETION_INDEX \+ 1\)\)", str(index + 1), re.findall(r'--take "(.*)"', command)[0])
              for index in range(spec["completions"])]
    taken = [take_of(share) for share in shares]
    assert [take.number for take in taken] == list(range(1, spec["completions"] + 1))
    assert {take.of for take in taken} == {spec["completions"]} and spec["completionMode"] == "Indexed"


def test_commands_and_strategies_of_the_page_exist() -> None:
    known = typer.main.get_command(app).commands   # type: ignore[attr-defined]
    used = re.findall(r"lethe (pool|run) +([^\n`]*)", PAGE)
    assert len(used) > 5
    for verb, rest in used:
        flags = {flag for option in known[verb].params for flag in option.opts}
        assert set(re.findall(r"--\w+", rest.split(" #")[0])) <= flags, rest
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)) == {"auto", *backends.names()}
