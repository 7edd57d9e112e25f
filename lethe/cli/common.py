"""What the commands share: options that they all have, what those become, and how data are printed."""

from __future__ import annotations

import functools
import inspect
import json
import os
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import typer

from lethe.cli.presets import request_file
from lethe.core import trust, user_files
from lethe.errors import LetheError, OutOfRange, RequestError, nearest

if TYPE_CHECKING:
    from lethe.core.events import Listener
    from lethe.results.schema import Results
    from lethe.work.options import Options
    from lethe.work.request import Request

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RequestFile = Annotated[Path, typer.Argument(metavar="REQUEST", help="Request file (YAML), or a preset: demo.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. method.lr=0.01 seed=3.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and print the plan; start nothing.")]
Again = Annotated[bool, typer.Option("--again", help="Repeat a request that is already done.")]
Cache = Annotated[Path | None, typer.Option(help="Folder of trained models; default: .cache in the request's output.")]
NoPage = Annotated[bool, typer.Option("--no-page", help="Write no page: numbers and tables only.")]
ShowIds = Annotated[bool, typer.Option("--show-ids", help="Name the forgotten records in page and results, too; usually they are "
                                                          "withheld there.")]

Require = Annotated[list[str] | None, typer.Option("--require", help="End with status 4 unless a model of every scenario is: "
                                                   "forgotten | useful | indistinguishable; repeat it.")]
MaxLoss = Annotated[float | None, typer.Option("--max-loss", help="End with status 4 where more of the score may be lost, e.g. "
                                               "0.01: one point of accuracy.")]
REQUIRED: tuple[Literal["forgotten", "useful", "indistinguishable"], ...] = ("forgotten", "useful", "indistinguishable")

WORKING = {   # options of every command that reads a request, models or data
    "data_root": (Annotated[Path | None, typer.Option("--data-root", help="Folder of the data sets that a preset names.")], None),
    "allow_pickle": (Annotated[bool, typer.Option("--allow-pickle", help="Load pickled weights and data. They can run any code: "
                                                  "only from people you trust as much as your own programs.")], False),
    "allow_code": (Annotated[bool, typer.Option("--allow-code", help="Run code that the request names outside .py files beside "
                                                "it.")], False),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings on stderr.")], False),
    "log_file": (Annotated[Path | None, typer.Option("--log-file", help="Append progress and warnings to this file.")], None),
    "as_json": (Json, False),
}


@dataclass(frozen=True)
class Working:
    """The options that every working command has (`WORKING`)."""

    data_root: Path | None = None
    allow_pickle: bool = False
    allow_code: bool = False
    quiet: bool = False
    log_file: Path | None = None
    as_json: bool = False

    def request(self, path: Path, overrides: Sequence[str] | None) -> Request:
        """The request of a file or, from its run folder, of a run; code beside it may be run."""
        from lethe.work.request import read

        path = request_file(path)
        run = path.is_dir()
        self.trusting(path.parent.parent if run else path.parent)
        return read(path / "request.yaml" if run else path, overrides or [])

    def trusting(self, *folders: Path) -> None:
        """Allow what the flags say, and the .py files of these folders."""
        trust.allow(*folders, code=self.allow_code, pickle=self.allow_pickle)

    def options(self, **more: Any) -> Options:
        """The options of the work itself; from here on torch is there."""
        one_thread()
        from lethe.work.options import Options

        return Options(self.data_root, command(), allow_pickle=self.allow_pickle, listener=self.listener(), **more)

    def listener(self) -> Listener:
        """The readers of events: stderr, unless quiet or with --json, and the log file where there is one."""
        from lethe.core.events import fan_out, silent
        from lethe.train.journal import command_line, log_file

        shown = silent if self.quiet or self.as_json else command_line()
        return fan_out(shown, log_file(self.log_file) if self.log_file else silent)

    def show(self, data: Any) -> None:
        """Print plain data to stdout."""
        show(data, self.as_json)


def working(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is a `Working`; on the command line it has the options of `WORKING` in its place."""
    given = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    first = next(iter(given.parameters))
    own = [one.replace(annotation=hints[one.name]) for one in given.parameters.values() if one.name != first]
    shared = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
              for name, (kind, default) in WORKING.items()]

    @functools.wraps(command)
    def called(*args: Any, **kwargs: Any) -> None:
        command(Working(**{name: kwargs.pop(name) for name in WORKING}), *args, **kwargs)

    made: Any = called
    made.__signature__ = given.replace(parameters=[*own, *shared])
    made.__annotations__ = {one.name: one.annotation for one in (*own, *shared)}
    return called


def with_paths(command: Callable[..., None]) -> Callable[..., None]:
    """A command that refuses paths of which the system will not even say whether they exist: too long, not permitted."""
    @functools.wraps(command)
    def called(*args: Any, **kwargs: Any) -> None:
        for given in (*args, *kwargs.values()):
            for one in given if isinstance(given, (list, tuple)) else [given]:
                if isinstance(one, Path):
                    user_files.askable(one)
        command(*args, **kwargs)
    return called


def show(data: Any, as_json: bool) -> None:
    """Print plain data to stdout, as JSON or as YAML."""
    if as_json:
        print(json.dumps(data, indent=2, default=str))
    else:
        import yaml

        print(yaml.safe_dump(json.loads(json.dumps(data, default=str)), sort_keys=False, allow_unicode=True), end="")


def one_thread() -> None:
    """One thread per process unless OMP_NUM_THREADS says otherwise: results are repeatable, pools use the cores."""
    import torch

    given = os.environ.get("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(given) if given.isascii() and given.isdigit() and 0 < int(given) < 1000 else 1)


def command() -> str:
    """The command line as it was typed."""
    return shlex.join(["lethe", *sys.argv[1:]])


def fail(text: str) -> None:
    """End with an error on purpose."""
    raise LetheError(text)


def acting(verb: str, action: str, given: Mapping[str, Any], needs: Collection[str], takes: Collection[str]) -> None:
    """RequestError where an action of a command lacks what it needs, or has an option that would be without effect.

    given  by name; in capitals what is an argument
    """
    for name, value in given.items():
        word = name if name.isupper() else f"--{name}"
        if value is None and name in needs:
            raise RequestError(f"lethe {verb} {action} needs {word}; nothing was done. See lethe {verb} --help.")
        if value and name not in takes:
            raise RequestError(f"lethe {verb} {action} takes no {word}, so it would be without effect; nothing was done. See "
                               f"lethe {verb} --help.")


def written_as(option: str, path: Path, kinds: Sequence[str] = (".html", ".json", ".csv")) -> None:
    """OutOfRange, before any work, for a file whose ending is of no kind that is written: it may be somebody's model or code."""
    if path.suffix not in kinds or path.is_dir():
        raise OutOfRange(f"{option} {path} does not end in {' or '.join(kinds)}, so nothing was written. Name a file of one of "
                         "these kinds.")


def required(words: Sequence[str] | None, max_loss: float | None, output: Path | None = None) -> None:
    """OutOfRange, before any work, for words that --require does not know, a loss that no model has, and an output that is
    neither page nor data."""
    if output is not None:
        written_as("--output", output)
    for word in words or ():
        if word not in REQUIRED:
            raise OutOfRange(f"--require {word} is not an answer{nearest(word, REQUIRED)}, so nothing was started. "
                             f"Write one of: {', '.join(REQUIRED)}.")
    if max_loss is not None and not max_loss >= 0:
        raise OutOfRange(f"--max-loss {max_loss} is below 0, so nothing was started. Write the largest loss of the score that "
                         "may be, e.g. 0.01.")


def laddered(overrides: Sequence[str] | None, until: str | None, within: float | None) -> list[str]:
    """The overrides with what --until and --within say, which are parts of the request; OutOfRange for what they cannot say."""
    from lethe.results.ladder import Until

    if until is not None and until not in (goals := get_args(Until)):
        raise OutOfRange(f"--until {until} is no goal{nearest(until, goals)}, so nothing was started. Write one of: "
                         f"{', '.join(goals)}.")
    if within is not None and not 0 < within < float("inf"):
        raise OutOfRange(f"--within {within:g} is no share of a retraining's cost, so nothing was started. Write e.g. 0.3, or "
                         "1.3: a try or two, and retraining if they fail.")
    if within is not None and until is None and not any(one.startswith("until=") for one in overrides or ()):
        raise OutOfRange(f"--within {within:g} bounds the tries of --until, which is not there; nothing was started. Add --until "
                         "forgotten or --until indistinguishable.")
    return [*(overrides or ()), *([f"until={until}"] if until else ()), *([f"within={within}"] if within else ())]


def by_policy(overrides: Sequence[str] | None, policy: Path | None) -> list[str]:
    """The overrides with a policy. It costs no retraining, so there are no references and shadows unless they are asked for."""
    given = list(overrides or ())
    if policy is None:
        return given
    said = {one.partition("=")[0] for one in given}
    none = [f"audit.{what}=0" for what in ("references", "shadows") if not said & {f"audit.{what}", "audit"}]
    return [*given, *none, f"policy={policy.absolute()}"]


def reached(results: Results, words: Sequence[str] | None, max_loss: float | None) -> int:
    """4 with one sentence on stderr where what was required is not reached, else 0."""
    if not words and max_loss is None:
        return 0
    from lethe.report.require import unmet

    why = unmet(results, [word for word in REQUIRED if word in (words or ())], max_loss)
    if why:
        print(why, file=sys.stderr)
    return 4 if why else 0
