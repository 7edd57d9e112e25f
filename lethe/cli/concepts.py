"""`lethe concepts`: takedown lists of text-to-image models, one small file a concept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lethe.cli.common import Working, acting, show, working

Action = Literal["add", "remove", "compose", "list"]
OPTIONS: dict[Action, frozenset[str]] = {"add": frozenset({"MODEL", "concept", "synonym"}), "remove": frozenset({"concept"}),
                                         "compose": frozenset({"MODEL", "output", "without"}), "list": frozenset()}
NEEDED: dict[Action, tuple[str, ...]] = {"add": ("MODEL", "concept"), "remove": ("concept",), "compose": ("MODEL", "output"),
                                         "list": ()}


@working
def concepts(common: Working, action: Annotated[Action, typer.Argument(help="What to do with the list.")],
             folder: Annotated[Path, typer.Argument(metavar="LIST", help="The list: a folder with a file for each concept.")],
             model: Annotated[Path | None, typer.Argument(metavar="[MODEL]", help="add: the saved model of a run, which has an "
                              "adapter. compose: the pipeline that the concepts are taken out of.")] = None,
             concept: Annotated[str | None, typer.Option(help="add, remove: the concept.")] = None,
             synonym: Annotated[list[str] | None, typer.Option(help="add: another wording; repeat it.")] = None,
             without: Annotated[list[str] | None, typer.Option(help="compose: leave this concept out; repeat it.")] = None,
             output: Annotated[Path | None, typer.Option(help="compose: the folder that is written; it must not exist.")] = None
             ) -> None:
    """Keep a takedown list, one small adapter a concept, and fold any choice of its concepts into a pipeline.

    lethe concepts add takedown runs/0a1b2c/models/spm --concept "Van Gogh" --synonym Vincent
    lethe concepts compose takedown pipeline --output served --without "Van Gogh"
    lethe concepts remove takedown --concept "Van Gogh"
    lethe concepts list takedown
    """
    given = {"MODEL": model, "concept": concept, "synonym": synonym, "without": without, "output": output}
    acting("concepts", action, given, NEEDED[action], OPTIONS[action])
    from lethe.models.diffusion import takedown

    if action == "add":
        assert model is not None and concept is not None
        rows, said = [takedown.add(folder, model, concept, synonym or ())], "on the list"
    elif action == "remove":
        assert concept is not None
        rows, said = [], "off the list; pipelines that were composed before still lack it"
        takedown.remove(folder, concept)
    elif action == "compose":
        assert model is not None and output is not None
        rows, said = takedown.compose(folder, model, output, without or ()), f"taken out of {model}, in {output}"
    else:
        rows, said = takedown.entries(folder), "on the list"
    if common.as_json:
        show({"action": action, "concepts": [one.row() for one in rows]}, as_json=True)
    else:
        print(f"{concept} is {said}." if action == "remove" else "\n".join(
            [*(f"{one.concept.concept}  {one.file.name}  {one.file.stat().st_size} bytes" for one in rows),
             f"{len(rows)} concept{'' if len(rows) == 1 else 's'} {said}."]))
