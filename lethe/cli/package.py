"""A method or an audit as a small package of its own, for those who use Lethe and do not work on it: `lethe new` elsewhere.

    lethe-foo/pyproject.toml       the entry point by which Lethe finds it      lethe-foo/lethe_foo/foo.py     the method itself
    lethe-foo/tests/test_foo.py    its test, which fails until it is written
"""

from __future__ import annotations

from pathlib import Path

from lethe.core.source_text import HOUSE

PROJECT = '''[build-system]
requires = ["hatchling>=1.25"]
build-backend = "hatchling.build"

[project]
name = "{folder}"
version = "0.1.0"
description = "{title}: for Lethe."
requires-python = ">=3.11"
dependencies = ["lethe-unlearning"]

[project.entry-points."lethe.{kind}s"]
{name} = "{module}"

[tool.hatch.build.targets.wheel]
packages = ["{package}"]
'''

RUNS = '''

def test_it_runs_on_a_small_problem_and_leaves_the_original_as_it_was() -> None:
    from sklearn.datasets import load_digits

    import lethe

    x, y = load_digits(return_X_y=True)
    images = torch.tensor(x / 16, dtype=torch.float32)
    model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    task = lethe.classification(model, train=(images[:400], torch.tensor(y[:400])), forget=lethe.where(index=range(20)))
    before = {{key: value.clone() for key, value in model.state_dict().items()}}
    models = [lethe.forget(task, "{name}", seed=0, watchdog=False).model for _ in range(2)]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    first, second = (one.state_dict() for one in models)
    assert all(torch.equal(first[key], second[key]) for key in first)
'''


def in_checkout(place: Path) -> bool:
    """Whether a folder lies in the source tree of this Lethe, where methods and audits have their rooms."""
    top = HOUSE.parent
    return place.resolve().is_relative_to(top) and (top / "pyproject.toml").exists() and (top / "tests").is_dir()


def root_of(path: Path) -> Path | None:
    """The folder of the package that a file of a plug-in belongs to: where its pyproject.toml is; None once it is installed
    somewhere else."""
    return next((place for place in list(path.resolve().parents)[:4] if (place / "pyproject.toml").exists()), None)


def layout(name: str, place: Path) -> tuple[Path, str, Path]:
    """(folder, module, test) of a new one in `place`."""
    root = place / f"lethe-{name.replace('_', '-')}"
    return root, f"lethe_{name}.{name}", root / "tests" / f"test_{name}.py"
