"""`lethe init`: ask what a request needs, write it, and look at it as `lethe check-model` does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lethe.cli.common import Overrides, Working, working
from lethe.core.catalogue import entries
from lethe.core.files import write_text
from lethe.errors import OutputExists, RequestError, unknown_name

HEAD = """# Look at it: lethe check-model {name}      Start: lethe run {name}      Every option: lethe describe sections
"""


@dataclass(frozen=True)
class Question:
    """One question.

    key    where the answer stands in the request          usual    the answer where none is given; '' leaves the key out
    kind   of names that are answers, too: they stand under `instead`
    """

    key: str
    text: str
    usual: str | None = None
    kind: str = ""
    instead: str = ""


MODEL = Question("model.code", "Model: file.py:function that returns the module, or a name of the zoo", "small_cnn", "zoo",
                 "model.zoo")
WEIGHTS = Question("model.weights", "Its weights (.pt, .safetensors, .npz; none: the recipe trains it)", "")
FIT = Question("model.fit", "Training: file.py:fit, from (x, y, seed) to a fitted model")
DATA = Question("data.path", "Training data: a file, a folder of pictures, or a kind (lethe describe sources)", "digits",
                "sources", "data.kind")
HOLDOUT = Question("data.holdout", "Unseen data: a file or folder; where the recipe trains the model also a share", "0.2")
FORGET = Question("forget", "To forget: {ids: […]}, {label: 3}, {query: age > 60}, {fraction: 0.05}", "{fraction: 0.05}")
METHOD = Question("method", "Method (lethe methods; a list, or all)", "")   # the family's usual one
EPOCHS = Question("recipe.epochs", "How it was, or will be, trained: epochs", "15")
RATE = Question("recipe.lr", "Learning rate", "0.002")


@working
def init(common: Working,
         given: Overrides = None,
         output: Annotated[Path, typer.Option(help="The request that is written.")] = Path("request.yaml"),
         yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: the usual answer to the rest.")] = False) -> None:
    """Ask what a request needs, write it, and look at it: what KEY=VALUE gives is not asked.

    lethe init
    lethe init --yes model.code=net.py:make model.weights=net.pt data.path=pictures data.holdout=unseen
    """
    from lethe.cli.door import table
    from lethe.work.door.look import look
    from lethe.work.request import overridden, parse

    file = output
    if file.exists():
        raise OutputExists(f"{file} exists; it is not overwritten, so nothing was written. Name another --output.")
    answers = list(given or [])
    family = _family(answers, yes)
    keys = {one.partition("=")[0] for one in answers}
    answers += [one for question in _questions(family, keys) for one in _answer(question, yes)]
    content = overridden({"family": family}, answers)
    parse(content, base=file.parent)   # what cannot be a request is not written
    import yaml

    write_text(file, HEAD.format(name=file) + str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True)))
    found = look(common.request(file, []), common.options())
    if common.as_json:
        common.show({"file": str(file), "findings": [one.row for one in found]})
    else:
        print(f"{file}:\n\n{table(found)}")
    if any(one.level == "error" for one in found):
        raise typer.Exit(2)


def _family(answers: list[str], yes: bool) -> str:
    """The family that was given or is asked for; it is taken out of the answers."""
    known = entries("families")
    told = next((one for one in answers if one.startswith("family=")), "")
    if told:
        answers.remove(told)
    family = told.removeprefix("family=") or ("classification" if yes else str(
        _asked(f"Family ({', '.join(known)})", "classification")))
    if family not in known:
        raise unknown_name("family", family, known)
    return family


def _asked(text: str, usual: str | None) -> Any:
    """The answer that is typed; RequestError where nobody can type one."""
    try:
        return typer.prompt(text, default=usual, show_default=bool(usual))
    except typer.Abort as ended:
        if isinstance(ended.__context__, EOFError):
            raise RequestError(f"lethe init asks ({text.partition(' (')[0]}), and its input has ended, so nothing was written. "
                               "Answer in a terminal, or on the command line: lethe init --yes KEY=VALUE …") from None
        raise


def questions(family: str) -> list[Question]:
    """What a family asks by itself (`asks=` of its registration); else by the options of its model."""
    found = entries("families")[family]
    if asked := found.facts.get("asks"):
        return [*(Question(*one) for one in asked), METHOD]
    options = {option.name for option in found.sections["model"].options}
    if "fit" in options:
        return [FIT, DATA, HOLDOUT, FORGET, METHOD]
    return [MODEL, WEIGHTS, DATA, HOLDOUT, EPOCHS, RATE, FORGET, METHOD]


def _questions(family: str, keys: set[str]) -> list[Question]:
    """What is left to ask."""
    def told(question: Question) -> bool:
        wanted = {question.key, question.instead, question.key.split(".")[0]} - {""}
        return any(key in wanted or key.startswith(f"{question.key}.") for key in keys) or (
            question.key == "forget" and "scenarios" in keys)

    asked = [one for one in questions(family) if not told(one)]
    return [replace(one, usual=entries("families")[family].usual) if one is METHOD else one for one in asked]


def _answer(question: Question, yes: bool) -> list[str]:
    """The answer as KEY=VALUE; none where the key is left out."""
    if yes and question.usual is None:
        raise RequestError(f"{question.key} is needed ({question.text}) and has no usual value, so nothing was written. Give "
                           f"{question.key}=….")
    value = str(question.usual if yes else _asked(question.text, question.usual)).strip()
    names = {"zoo": entries("zoo"), "sources": entries("sources")}.get(question.kind, {})
    return [f"{question.instead if value in names else question.key}={value}"] if value else []
