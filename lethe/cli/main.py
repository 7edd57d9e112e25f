"""`lethe`: the command line. Data goes to stdout, progress and errors to stderr; exit status 0 means success.

    0 done · 2 the request, data or model cannot be used (no run was started) ·
    3 done, but a method failed or a certificate does not hold ·
    1 a defect: of Lethe (traceback), or of a method or an audit (the others are done; traceback in the run's failures/) ·
    130 interrupted (repeat the command to continue)
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lethe.cli import describe as describing
from lethe.cli.common import Json
from lethe.cli.common import show as _show
from lethe.errors import LetheError

if TYPE_CHECKING:
    from lethe.core.events import Listener

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Removes data, classes, entities and concepts from trained models, and measures how well they are gone.")

RequestFile = Annotated[Path, typer.Argument(metavar="REQUEST", help="Request file (YAML), e.g. presets/demo.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. method.lr=0.01 seed=3.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and print the plan; start nothing.")]
DataRoot = Annotated[Path | None, typer.Option("--data-root", help="Folder of the data sets that a preset names.")]
Again = Annotated[bool, typer.Option("--again", help="Repeat a request that is already done.")]
Cache = Annotated[Path | None, typer.Option(help="Folder of trained models; default: .cache in the request's output.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load pickled weights. They can run any code: only from people "
                                                                  "you trust as much as your own programs.")]


@app.command()
def run(request: RequestFile, overrides: Overrides = None, as_json: Json = False, dry_run: DryRun = False,
        data_root: DataRoot = None, again: Again = False, allow_pickle: AllowPickle = False, cache: Cache = None) -> None:
    """Forget with the request's method, audit the result, and write the unlearned model."""
    _work(request, overrides, as_json, dry_run, data_root, again, allow_pickle, export=True, verb="run", cache=cache)


@app.command()
def compare(request: RequestFile, overrides: Overrides = None, as_json: Json = False, dry_run: DryRun = False,
            data_root: DataRoot = None, again: Again = False, allow_pickle: AllowPickle = False, cache: Cache = None,
            export: Annotated[bool, typer.Option("--export", help="Write every unlearned model too.")] = False) -> None:
    """Run several methods on the same task: one table, one page, one yardstick."""
    _work(request, overrides, as_json, dry_run, data_root, again, allow_pickle, export=export, verb="compare",
          cache=cache)


@app.command()
def audit(target: Annotated[str | None, typer.Argument(metavar="[RUN|REQUEST]", help="A run folder, or a request (with "
                                                       "--unlearned). Neither: files alone, see the other options.")] = None,
          overrides: Overrides = None, as_json: Json = False, dry_run: DryRun = False, data_root: DataRoot = None,
          unlearned: Annotated[Path | None, typer.Option(help="The model to audit (as Lethe or its library saves it).")] = None,
          original: Annotated[Path | None, typer.Option(help="The model before.")] = None,
          retrained: Annotated[list[Path] | None, typer.Option(help="A model trained without the forget set; repeat it.")] = None,
          forget: Annotated[Path | None, typer.Option(help="Data that should be forgotten.")] = None,
          retain: Annotated[Path | None, typer.Option(help="Data that should be kept.")] = None,
          holdout: Annotated[Path | None, typer.Option(help="Data like the forget set that no model has seen.")] = None,
          test: Annotated[Path | None, typer.Option(help="Data for utility.")] = None,
          family: Annotated[str | None, typer.Option(help="Default: recognised by the model's files.")] = None,
          depth: Annotated[str, typer.Option(help="quick | standard | deep")] = "standard",
          allow_pickle: AllowPickle = False,
          output: Annotated[Path | None, typer.Option(help="Where the page goes.")] = None) -> None:
    """Audit the models of a run again, any saved model on the task of a request, or model files on data files."""
    from lethe.cli import audit as command

    _one_thread()
    from lethe.work.options import Options

    options = Options(data_root, _command(), allow_pickle=allow_pickle, listener=_listener(as_json))
    if forget is not None:
        parts = {"original": original, "unlearned": unlearned, "retrained": retrained or (), "forget": forget, "retain": retain,
                 "holdout": holdout, "test": test, "family": family, "allow_pickle": allow_pickle}
        given = [*([target] if target else []), *(overrides or [])]
        place = output or Path("audit.html")
        found = command.of_files(parts, given, depth, options)
    else:
        if target is None:
            _fail("there is nothing to audit. Name a run folder, a request with --unlearned, or --unlearned MODEL --forget "
                  "DATA.")
        found, usual = command.of_request(Path(str(target)), overrides or [], unlearned, depth, options, dry_run)
        place = output or usual
    if isinstance(found, dict):
        _show(found, as_json)
        return
    found.save(place)
    found.save(place.with_suffix(".json"))
    print(found.json() if as_json else f"{found.table()}\n\nPage:    {place}")


@app.command()
def report(target: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or a results.json.")],
           output: Annotated[Path | None, typer.Option(help="Page (.html), data (.json) or table (.csv).")] = None,
           figures: Annotated[Path | None, typer.Option(help="Folder for the figures as SVG, PNG and CSV.")] = None,
           as_json: Json = False) -> None:
    """Show the results of a run; write its page or figures again."""
    from lethe.report.report import load

    found = load(_existing(target))
    if output:
        found.save(output)
    if figures:
        from lethe import report as pages

        pages.figures(found.results, figures)
    print(found.json() if as_json else found.table())


app.command()(describing.methods)
app.command()(describing.audits)


@app.command()
def train(request: RequestFile, overrides: Overrides = None,
          exact: Annotated[str, typer.Option("--exact", help="s3t | sisa: how records will be deleted exactly.")] = "s3t",
          output: Annotated[Path, typer.Option(help="The folder that is written; it must not exist.")] = Path("exact"),
          data_root: DataRoot = None, allow_pickle: AllowPickle = False, as_json: Json = False) -> None:
    """Train a model from which records can later be deleted exactly, with a manifest of what each part has read."""
    from lethe.work.request import read

    asked = read(request, overrides or [])
    _one_thread()
    from lethe.work.options import Options
    from lethe.work.train import train as trained

    options = Options(data_root, _command(), allow_pickle=allow_pickle, listener=_listener(as_json))
    _show(trained(asked, exact, output, options), as_json)


@app.command()
def protect(request: RequestFile, overrides: Overrides = None,
            output: Annotated[Path, typer.Option(help="The folder that is written; it must not exist.")] = Path("protected"),
            bound: Annotated[float, typer.Option(help="Largest change of a pixel, of its range 0 to 1.")] = 16 / 255,
            clusters: Annotated[int, typer.Option(min=2, help="Perturbations; images of a cluster share theirs.")] = 10,
            steps: Annotated[int, typer.Option(min=1, help="Gradient steps for each perturbation.")] = 200,
            data_root: DataRoot = None, allow_pickle: AllowPickle = False, as_json: Json = False) -> None:
    """Perturb images before training, so that models learn little from them, and measure how little."""
    from lethe.work.request import read

    asked = read(request, overrides or [])
    _one_thread()
    from lethe.work.options import Options
    from lethe.work.protect import Protection
    from lethe.work.protect import protect as protected

    options = Options(data_root, _command(), allow_pickle=allow_pickle, listener=_listener(as_json))
    _show(protected(asked, output, options, Protection(bound, clusters, steps, asked.seed)), as_json)


@app.command()
def pool(request: RequestFile, overrides: Overrides = None,
         take: Annotated[str, typer.Option(help="I/N: only the I-th of N shares, counted from 1.")] = "1/1",
         cache: Cache = None,
         scenario: Annotated[str | None, typer.Option(help="Only this scenario.")] = None,
         what: Annotated[str, typer.Option(help="all | references | shadows")] = "all",
         strategy: Annotated[str, typer.Option(help="How they are trained; default: one after the other.")] = "serial",
         list_only: Annotated[bool, typer.Option("--list", help="Show the models and their state; train none of them.")] = False,
         data_root: DataRoot = None, allow_pickle: AllowPickle = False, as_json: Json = False) -> None:
    """Train ahead the models that a request compares with, all or a share of them: lethe run then finds them in the cache."""
    from lethe.cli import pool as command
    from lethe.pools.take import take_of
    from lethe.work.request import read

    asked, share = read(request, overrides or []), take_of(take)
    _one_thread()
    from lethe.work.options import Options

    options = Options(data_root, _command(), allow_pickle=allow_pickle, listener=_listener(as_json), cache=cache)
    print(command.trained(asked, options, share, scenario, what, strategy, list_only, as_json))


@app.command()
def triage(request: RequestFile, overrides: Overrides = None, data_root: DataRoot = None, allow_pickle: AllowPickle = False,
           as_json: Json = False) -> None:
    """Rank the records to forget: which of them show in the model, which others cover, which have an equal that stays."""
    from lethe.cli.triage import table
    from lethe.work.request import read

    asked = read(request, overrides or [])
    _one_thread()
    from lethe.work.options import Options
    from lethe.work.triage import triaged

    found = triaged(asked, Options(data_root, _command(), allow_pickle=allow_pickle, listener=_listener(as_json)))
    print(json.dumps(found) if as_json else table(found))


app.command()(describing.describe)


@app.command()
def bench(suite: Annotated[str | None, typer.Argument(metavar="[SUITE]", help="A suite; none: list them.")] = None,
          overrides: Overrides = None,
          output: Annotated[Path | None, typer.Option(help="Folder of the numbers; default: measured/.")] = None,
          data_root: DataRoot = None, allow_pickle: AllowPickle = False, as_json: Json = False) -> None:
    """Measure every method on a suite of requests, as a user runs it, and keep the numbers by method."""
    from lethe.cli import bench as command

    if suite is None:
        _show(command.listed(), as_json)
        return
    _one_thread()
    from lethe.work.options import Options

    options = Options(data_root, _command(), allow_pickle=allow_pickle, listener=_listener(as_json))
    _show(command.measured(suite, overrides or [], options, output), as_json)


@app.command()
def results(output: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs"),
            method: Annotated[str | None, typer.Option(help="Only runs with this method.")] = None,
            family: Annotated[str | None, typer.Option(help="Only this family.")] = None,
            verdict: Annotated[str | None, typer.Option(help="Only rows with this verdict.")] = None,
            export: Annotated[Path | None, typer.Option(help="Write all evidence to this .csv or .json.")] = None,
            verify: Annotated[bool, typer.Option("--verify", help="Check the hash chain.")] = False,
            as_json: Json = False) -> None:
    """List, filter and export earlier runs."""
    from lethe.cli.ledger import show_results

    show_results(output, method, family, verdict, export, verify, as_json)


@app.command()
def schema(what: Annotated[str, typer.Argument(help="results | request")]) -> None:
    """Print the JSON Schema of results.json, or of a request."""
    from lethe.cli.schema import show_schema

    show_schema(what)


@app.command()
def certify(run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
            key: Annotated[Path, typer.Option(help="Private key (PEM, Ed25519) that signs; created if it does not exist.")],
            method: Annotated[str | None, typer.Option(help="Whose model, when the run has several methods.")] = None,
            scenario: Annotated[str | None, typer.Option(help="Which request, when the run has several.")] = None,
            declare: Annotated[Path | None, typer.Option(help="YAML: request, inventory, notifications, …: see docs.")] = None,
            output: Annotated[Path | None, typer.Option(help="Folder of the certificate; default: certificates/ beside the run.")]
            = None,
            data_root: DataRoot = None, allow_pickle: AllowPickle = False, as_json: Json = False) -> None:
    """Sign what may be claimed about a run: claims with their evidence, commitments, hashes."""
    from lethe.cli.certificate import certify as issue

    _one_thread()
    from lethe.work.options import Options

    options = Options(data_root, _command(), allow_pickle=allow_pickle, listener=_listener(as_json))
    issue(run, key, output, method, scenario, declare, options, as_json)


@app.command()
def verify(certificate: Annotated[Path, typer.Argument(metavar="CERT", help="The folder of a certificate.")],
           public_key: Annotated[Path | None, typer.Option(help="The issuer's public key (PEM), as the issuer sent it.")] = None,
           model: Annotated[Path | None, typer.Option(help="Folder of the model that the certificate should be about.")] = None,
           ledger: Annotated[Path | None, typer.Option(help="The issuer's ledger.sqlite.")] = None,
           reexecute: Annotated[bool, typer.Option("--reexecute", help="Repeat the run and compare the weights.")] = False,
           run: Annotated[Path | None, typer.Option(help="The run folder, for --reexecute.")] = None,
           data_root: DataRoot = None, allow_pickle: AllowPickle = False, as_json: Json = False) -> None:
    """Check a certificate offline: signature, hashes, commitments, log, claims. Exit status 3 when it does not hold."""
    from lethe.cli.certificate import verify as checked

    options = None
    if reexecute:
        _one_thread()
        from lethe.work.options import Options

        options = Options(data_root, _command(), allow_pickle=allow_pickle, listener=_listener(as_json))
    if not checked(certificate, public_key, model, ledger, run, options, as_json):
        raise typer.Exit(3)


@app.command()
def new(kind: Annotated[str, typer.Argument(help="method | audit")], name: Annotated[str, typer.Argument(help="e.g. foo")],
        family: Annotated[str, typer.Option(help="any, or a family: lethe describe families")] = "any") -> None:
    """Write a new method or audit and its test, running and failing on purpose."""
    from lethe.cli.scaffold import write

    for path in write(kind, name, family):
        print(path)


@app.command()
def check(name: Annotated[str, typer.Argument(help="A method or an audit.")]) -> None:
    """Check a method or an audit: documentation, golden test, layers, and the matrix on every tiny model."""
    from lethe.cli.scaffold import check as check_one

    raise typer.Exit(check_one(name))


def main() -> None:
    """Entry point: errors on purpose become one line and exit status 2; SIGTERM ends as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        ending = app(standalone_mode=False)   # typer turns Exit and Ctrl-C into a returned status, older ones into Abort
        if ending == 130:
            raise KeyboardInterrupt
        if isinstance(ending, int) and ending:
            sys.exit(ending)
    except LetheError as error:
        _die(f"{type(error).__name__}: {error}", 2)
    except (KeyboardInterrupt, typer.Abort):
        _die("Interrupted; nothing is lost. Repeat the same command to continue from the last checkpoint.", 130)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if hasattr(error, "format_message"):   # usage errors of the command line itself
            _die(f"{error.format_message()} See lethe --help.", 2)
        raise


def _work(path: Path, overrides: list[str] | None, as_json: bool, dry_run: bool, data_root: Path | None, again: bool,
          allow_pickle: bool, export: bool, verb: str, cache: Path | None = None) -> None:
    from lethe.work.request import read

    request = read(path, overrides or [])
    _one_thread()
    from lethe.cli.run import after, status_of
    from lethe.work.execute import carry_out
    from lethe.work.execute import dry_run as planned
    from lethe.work.options import Options

    options = Options(data_root, _command(), again, export, allow_pickle, _listener(as_json), cache)
    if dry_run:
        _show(planned(request, options), as_json)
        return
    report = carry_out(request, options)
    if report is None:   # a follower under torchrun: the first process reports
        return
    print(report.json() if as_json else after(report, request, path, verb, export))
    status = status_of(report)
    if status:
        raise typer.Exit(status)


def _one_thread() -> None:
    """One thread per process unless OMP_NUM_THREADS says otherwise: results are repeatable, pools use the cores."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _existing(path: Path) -> Path:
    wanted = path / "results.json" if path.is_dir() else path
    if not wanted.exists():
        _fail(f"{wanted} does not exist, so there is nothing to show. lethe results lists the finished runs.")
    return path


def _listener(as_json: bool) -> Listener:
    """The reader of events on stderr; with --json nobody listens."""
    from lethe.core.events import silent
    from lethe.train.journal import command_line

    return silent if as_json else command_line()


def _command() -> str:
    import shlex

    return shlex.join(["lethe", *sys.argv[1:]])


def _fail(text: str) -> None:
    raise LetheError(text)


def _die(text: str, status: int) -> None:
    print(text, file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
