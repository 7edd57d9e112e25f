"""The catalogue: every kind is found by file, names are unique, and plug-ins are listed like our own."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from lethe.core import catalogue
from lethe.core.catalogue import KINDS, Kind, discover, entries, entry, load
from lethe.errors import NameClash, RequestError, UnknownName

METHOD = '''"""Does one thing. Somebody (2024)."""
from lethe.core.config import config
from lethe.core.registry import method

@config
class Salun:
    lr: float = 0.1     # step [ours]

@method(needs={"forget"}, uses={"nll"}, mechanism="ascent")
def run(cfg: Salun, task, loop):
    return None
'''
AUDIT = METHOD.replace("registry import method", "registry import audit").replace(
    '@method(needs={"forget"}, uses={"nll"}, mechanism="ascent")\ndef run',
    '@audit(metrics={}, uses={"nll"}, blind="all")\ndef measure')
FAMILY = '''"""Opens toys."""
from lethe.core.config import config
from lethe.core.registry import family

@config
class Toy:
    size: int = 3       # of the toy

@family(model=Toy, data=Toy)
def open_request(request, context):
    return None
'''
MODIFIER = '''"""Moves one thing."""
from lethe.core.config import config

@config
class One:
    share: float = 0.1  # of them
'''
SOURCE = '''"""Reads one thing."""
from lethe.core.config import config

@config
class Only:
    path: str = ""      # where

def read(cfg: Only, context, name):
    return {}
'''
MODEL = '''"""A model."""

class TinyThing:
    """A thing with few weights."""

    def __init__(self, width: int = 8) -> None:
        self.width = width
'''
# kind -> (text, place of one file below a house, place of another of the same name), the second with the plug-in's name
FILES: dict[Kind, tuple[str, str, str, str]] = {
    "methods": (METHOD, "methods/general/twin.py", "methods/lm/twin.py", "twin"),
    "audits": (AUDIT, "audits/lm/twin.py", "audits/twin.py", "twin"),
    "families": (FAMILY, "models/twin/open.py", "", "twin"),
    "modifiers": (MODIFIER, "train/modifiers/where/twin.py", "", "where.twin"),
    "sources": (SOURCE, "data/sources/twin.py", "", "twin"),
    "published": (SOURCE, "data/published/twin.py", "", "twin"),
    "zoo": (MODEL.replace("TinyThing", "Twin"), "models/zoo/twin.py", "", "twin"),
}


def put(house: Path, place: str, text: str) -> Path:
    path = house / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def plugin(folder: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> EntryPoint:
    """An installed module `twin` with the entry point that names it."""
    put(folder, "twin.py", FILES[kind][0])
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("twin", None)
    return EntryPoint(FILES[kind][3], "twin", f"lethe.{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_is_the_whole_registration(kind: Kind, tmp_path: Path) -> None:
    text, place, _, name = FILES[kind]
    put(tmp_path, place, text)
    found = discover(kind, tmp_path)
    assert list(found) == [name]
    assert found[name].title
    assert found[name].options, "its options are described"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if FILES[kind][2]])
def test_two_files_of_one_name_are_an_error_that_names_both(kind: Kind, tmp_path: Path) -> None:
    text, one, two, name = FILES[kind]
    first, second = put(tmp_path, one, text), put(tmp_path, two, text)
    with pytest.raises(NameClash) as caught:
        discover(kind, tmp_path)
    assert str(first) in str(caught.value) and str(second) in str(caught.value) and repr(name) in str(caught.value)
    assert "Rename one of the files" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plugin_is_listed_and_never_replaces_a_file(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = plugin(tmp_path / "site", kind, monkeypatch)
    assert discover(kind, tmp_path / "house", [point])[FILES[kind][3]].origin
    assert len(discover(kind, tmp_path / "house", [point, point])) == 1   # listed twice, one file
    put(tmp_path / "house", FILES[kind][1], FILES[kind][0])
    with pytest.raises(NameClash, match="entry point"):
        discover(kind, tmp_path / "house", [point])


def test_a_clash_stops_listing_loading_and_describing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file called salun.py from elsewhere does not replace SalUn."""
    put(tmp_path, "salun.py", METHOD)
    monkeypatch.syspath_prepend(str(tmp_path))
    points = {"lethe.methods": [EntryPoint("salun", "salun", "lethe.methods")]}
    monkeypatch.setattr(catalogue, "entry_points", lambda group: points.get(group, []))
    catalogue.entries.cache_clear()
    try:
        for ask in (lambda: entries("methods"), lambda: entry("methods", "scrub"), lambda: load("methods", "salun"),
                    lambda: catalogue.find("salun")):
            with pytest.raises(NameClash, match=r"salun"):
                ask()
    finally:
        catalogue.entries.cache_clear()


def test_a_plugin_that_cannot_be_read_says_which_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="'nowhere'"):
        discover("methods", tmp_path, [EntryPoint("foo", "nowhere", "lethe.methods")])
    put(tmp_path, "silent.py", "'''Nothing.'''\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RequestError, match="registers nothing"):
        discover("methods", tmp_path, [EntryPoint("silent", "silent", "lethe.methods")])
    put(tmp_path, "member.py", MODIFIER)
    with pytest.raises(RequestError, match=r"seam\.member"):
        discover("modifiers", tmp_path, [EntryPoint("member", "member", "lethe.modifiers")])


def test_our_own_names_are_unique_over_all_kinds() -> None:
    """`lethe describe NAME` needs no kind."""
    names = [name for kind in KINDS for name in entries(kind)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_listed_loads(kind: Kind) -> None:
    for name in entries(kind):
        if kind not in ("methods", "audits"):   # the matrix and the audits' own tests load those
            assert load(kind, name) is not None
        assert entries(kind)[name].title, name


def test_a_modifier_is_found_by_its_short_name() -> None:
    assert entry("modifiers", "lora").name == "where.lora"
    with pytest.raises(UnknownName, match=r"did you mean where\.lora"):
        entry("modifiers", "where.lore")


def test_options_come_from_the_classes_that_a_family_declares() -> None:
    regression = entries("families")["regression"]
    assert {"zoo", "weights", "loss"} <= {o.name for o in regression.sections["model"].options}   # its own and the inherited
    assert "holdout" in {o.name for o in regression.sections["data"].options}
    assert "keeps" not in {o.name for o in entries("modifiers")["average.ema"].options}   # a fact of the class, no option
