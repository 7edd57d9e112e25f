"""`lethe new` and `lethe check`: the first fifteen minutes of a method or an audit."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from lethe.cli import package
from lethe.core.catalogue import Entry, entries, find
from lethe.core.extras import needs_extra
from lethe.core.files import write_text
from lethe.core.source_text import HOUSE
from lethe.errors import OutputExists, RequestError, unknown_name

METHOD = '''"""{title}: what it does in one line. Authors (year), arXiv:0000.00000.

    L(θ) = E_{{x∈R}} ℓ(θ; x)  −  λ · E_{{x∈F}} ℓ(θ; x)

F forget set, R retain set, ℓ the family's training loss, λ ≥ 0.
Needs:    forget, retain.     Updates: every trainable parameter.
Cost:     one forward/backward on F and one on R per step.
Limits:   λ = 0 is fine-tuning on R.
Fails by: state how, with numbers.
Deviations: none yet.
"""

from __future__ import annotations

from torch import Tensor

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.task import Task
from lethe.train.loop import Loop, Term


@config
class {cls}:
    """Options of {title}."""

    strength: NonNegative = 0.1   # λ; 0 forgets nothing                                [origin?]
    lr: Positive = 1e-3           # AdamW                                               [origin?]
    epochs: Positive = 1.0        # passes over F                                       [origin?]
    batch_size: Count = 64        # of each term                                        [origin?]


def {name}_loss(nll: Tensor, strength: float) -> Tensor:
    """−λ·ℓ per example.  [n] -> [n]"""
    return -strength * nll


@method(needs={{"forget", "retain"}}, uses={{"nll"}}, mechanism="ascent")
def run(cfg: {cls}, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    terms = {{
        "forget": Term(task.forget, lambda m, b: {name}_loss(task.nll(m, b), cfg.strength)),
        "retain": Term(task.retain, task.nll),
    }}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size)
    return loop.finish(model)
'''

METHOD_TEST = '''"""{title}: golden number and limits. What every method must do besides is in test_matrix.py."""

import torch

from {module} import {name}_loss


def test_golden_number() -> None:
    # −0.5 · 2.0 = −1.0; write the paper's own formula here with its arithmetic
    assert {name}_loss(torch.tensor([2.0]), 0.5).item() == -1.0


def test_limit() -> None:
    raise AssertionError("state a limit of {name} (what happens at strength 0?) and assert it")
'''

AUDIT = '''"""{title}: what it measures in one line. Authors (year), arXiv:0000.00000.

    value = mean over the forget set of the family's score

Range: 0 to 1. A retrained model scores its own value: the yardstick shows which.
Blind to: state what it cannot see.
"""

from __future__ import annotations

from lethe.core.config import Fraction, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.panel import Panel
from lethe.maths.statistics import mean_interval
from lethe.pools.subject import Subject


@config
class {cls}:
    """Options of {title}."""

    threshold: Fraction = 0.5     # what counts as known                                [origin?]


@audit(
    metrics={{"{name}": Metric("share of the forget set that is still known")}},
    uses={{"observe"}},
    needs={{"forget"}},
    depth="quick",
    blind="Anything that does not show in the score of the forget examples themselves.",
)
def measure(cfg: {cls}, subject: Subject, panel: Panel) -> list[Value]:
    known = (subject.seen(panel.task.forget)["score"] >= cfg.threshold).double().numpy()
    low, high = mean_interval(known)
    return [Value("{name}", float(known.mean()), low, high, len(known))]
'''

AUDIT_TEST = '''"""{title}: a known answer, a model that must fail it and one that must pass."""


def test_known_answer() -> None:
    raise AssertionError("compute {name} by hand for three examples and compare")


def test_controls() -> None:
    raise AssertionError("show that the original fails {name} and a retrained model passes")
'''


def write(kind: str, name: str, family: str) -> list[Path]:
    """The files of a new method or audit: in the source tree, or elsewhere a package of its own."""
    if kind not in ("method", "audit"):
        raise RequestError(f"{kind!r} cannot be created, so nothing was written. "
                           "Use lethe new method NAME, or lethe new audit NAME.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise RequestError(f"{name!r} is not a file name in snake case (a-z, 0-9, _); nothing was written.")
    if family not in ("any", *entries("families")):
        raise unknown_name("family", family, ("any", *entries("families")))
    if name in entries("methods" if kind == "method" else "audits"):
        raise OutputExists(f"{kind} {name!r} exists already; nothing was written. Choose another name.")
    inside = package.in_checkout(Path.cwd())
    files = _in_house(kind, name, family) if inside else _as_package(kind, name, family, Path.cwd())
    for place in files:
        if place.exists():
            raise OutputExists(f"{place} exists; it is not overwritten, so nothing was written. Choose another name.")
    for place, text in files.items():
        write_text(place, text)
    return list(files)


def _in_house(kind: str, name: str, family: str) -> dict[Path, str]:
    """The files of a new one in the source tree: its own and its test."""
    folder = HOUSE / f"{kind}s" / (family if family != "any" else "general" if kind == "method" else "")
    path = folder / f"{name}.py"
    words = _words(name, "lethe." + ".".join(path.relative_to(HOUSE).with_suffix("").parts))
    return {path: (METHOD if kind == "method" else AUDIT).format(**words),
            own_tests(f"{kind}s", name): (METHOD_TEST if kind == "method" else AUDIT_TEST).format(**words)}


def _as_package(kind: str, name: str, family: str, place: Path) -> dict[Path, str]:
    """The files of a new one as a package of its own, below `place`."""
    root, module, test = package.layout(name, place)
    words = {**_words(name, module), "kind": kind, "folder": root.name, "package": module.split(".")[0]}
    method = kind == "method"
    runs = package.RUNS if method and family in ("any", "classification") else ""
    return {root / "pyproject.toml": package.PROJECT.format(**words),
            root / words["package"] / "__init__.py": f'"""{words["title"]}: a {kind} for Lethe."""\n',
            root / words["package"] / f"{name}.py": (METHOD if method else AUDIT).format(**words),
            test: ((METHOD_TEST if method else AUDIT_TEST) + runs).format(**words)}


def _words(name: str, module: str) -> dict[str, str]:
    """What stands in the templates."""
    return {"name": name, "cls": "".join(w.title() for w in name.split("_")), "title": name.replace("_", " ").capitalize(),
            "module": module}


def check(name: str) -> int:
    """Print what is missing and run its tests; 0 when nothing is missing and all pass."""
    entry = find(name)
    faults = faults_of(entry)
    for fault in faults:
        print(f"✗ {fault}")
    if not faults:
        print("✓ documentation: sections, and an origin for every default; tests of its own")
    tests, own = HOUSE.parent / "tests", tests_of(entry)
    if not own.exists():
        return 1
    if importlib.util.find_spec("pytest") is None:
        raise needs_extra("dev", "lethe check", "pytest")
    python = [sys.executable, "-m", "pytest", "-m", "", "-q"]
    if entry.origin:   # another package's: the tests of this house are not for it, and need not be here
        ended = subprocess.run([*python, str(own)], cwd=own.parent, check=False).returncode
        return int(bool(faults) or bool(ended))
    done = [subprocess.run([*python, str(own), str(tests / "test_layers.py")], cwd=HOUSE.parent, check=False).returncode]
    if entry.kind == "methods":
        shared = [str(tests / "test_matrix.py"), str(tests / "wiring")]
        done.append(subprocess.run([*python, *shared, "-k", name], cwd=HOUSE.parent, check=False).returncode)
    return int(bool(faults) or any(done))


def own_tests(kind: str, name: str) -> Path:
    """The test file of a method or audit: test_<name>.py, or test_<name>_audit.py where another room has that name."""
    tests = HOUSE.parent / "tests"
    usual = tests / kind / f"test_{name}.py"
    taken = any(path != usual for path in tests.rglob(usual.name))   # pytest imports a name once
    return tests / kind / f"test_{name}_{kind.removesuffix('s')}.py" if taken else usual


def tests_of(entry: Entry) -> Path:
    """The test file of an entry, in this house or in the package that it comes from."""
    if not entry.origin:
        return own_tests(entry.kind, entry.path.stem)
    root = package.root_of(entry.path) or entry.path.parent
    return root / "tests" / f"test_{entry.path.stem}.py"


def faults_of(entry: Entry) -> list[str]:
    """What a method or audit lacks, as far as it can be seen without running anything."""
    own = tests_of(entry)
    untested = [] if own.exists() else [f"{entry.name}: no test file {own.name}: a golden number and a limit belong there"]
    return [*documentation_faults(entry), *untested]


def documentation_faults(entry: Entry) -> list[str]:
    """What the docstring and the options lack."""
    faults = []
    wanted = ("Needs:", "Updates:", "Cost:", "Limits:", "Fails by:") if entry.kind == "methods" else ()
    faults += [f"{entry.name}: the docstring has no section {section!r}" for section in wanted if section not in entry.doc]
    if not re.search(r"\b(19|20)\d\d\b", entry.doc):
        faults.append(f"{entry.name}: the docstring names no source (authors, year, arXiv number)")
    for option in entry.options:
        if not option.comment:
            faults.append(f"{entry.name}.{option.name}: no comment (unit, direction, origin)")
        elif "origin?" in option.comment:
            faults.append(f"{entry.name}.{option.name}: a default without an origin is a rumour")
    return faults
