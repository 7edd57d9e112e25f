"""The commands that work on a request: run, compare, check-model, audit, train, protect, pool, triage, bench."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from lethe.cli.common import (
    Again,
    Cache,
    DryRun,
    MaxLoss,
    NoPage,
    Overrides,
    RequestFile,
    Require,
    ShowIds,
    Working,
    by_policy,
    fail,
    laddered,
    reached,
    required,
    show,
    working,
)

OUTPUT = "The folder that is written; it must not exist."


@working
def run(common: Working, request: RequestFile, overrides: Overrides = None, dry_run: DryRun = False, again: Again = False,
        cache: Cache = None, no_page: NoPage = False, show_ids: ShowIds = False, require: Require = None,
        max_loss: MaxLoss = None,
        until: Annotated[str | None, typer.Option(help="forgotten | indistinguishable: in place of the request's method, try "
                                                  "methods from the cheapest until a model is.")] = None,
        within: Annotated[float | None, typer.Option(help="With --until: what all tries may cost, in retrainings.  [default: "
                                                     "0.3]")] = None,
        policy: Annotated[Path | None, typer.Option(help="Run by this policy of lethe calibrate: its method, and no retrained "
                                                    "models unless audit.references asks for them.")] = None) -> None:
    """Forget with the request's method, audit the result, and write the unlearned model.

    lethe run request.yaml method=salun method.lr=0.01 seed=3
    lethe run request.yaml --dry-run
    lethe run request.yaml --require forgotten --max-loss 0.01
    lethe run request.yaml --until forgotten --within 0.3
    lethe run request.yaml --policy policy.json
    """
    _work(common, request, by_policy(laddered(overrides, until, within), policy), dry_run, again, cache, export=True, verb="run",
          page=not no_page, show_ids=show_ids, wanted=(require, max_loss))


@working
def calibrate(common: Working, request: RequestFile, overrides: Overrides = None, cache: Cache = None,
              requests: Annotated[int, typer.Option(help="How many requests are drawn.")] = 20,
              until: Annotated[str, typer.Option(help="forgotten | indistinguishable: what passes.")] = "forgotten",
              within: Annotated[float, typer.Option(help="What one request may cost, in retrainings.")] = 0.3,
              output: Annotated[Path, typer.Option(help="The file; another policy is not overwritten.")] = Path("policy.json"),
              ) -> None:
    """Draw requests like this one, find the method that passes on them, and keep it as a policy for requests to come.

    lethe calibrate request.yaml --requests 40 --until forgotten --within 0.3
    lethe run next_request.yaml --policy policy.json
    """
    from lethe.cli.calibrate import told

    asked = common.request(request, laddered(overrides, until, within))
    options = common.options(cache=cache)
    from lethe.work.calibrate import calibrate as calibrated

    found = calibrated(asked, options, requests, output)
    print(told(found, asked, output, common.as_json))
    if found.policy is None:
        raise typer.Exit(4)


@working
def compare(common: Working, request: RequestFile, overrides: Overrides = None, dry_run: DryRun = False, again: Again = False,
            cache: Cache = None, no_page: NoPage = False, show_ids: ShowIds = False,
            export: Annotated[bool, typer.Option("--export", help="Write every unlearned model too.")] = False,
            require: Require = None, max_loss: MaxLoss = None) -> None:
    """Run several methods on the same task: one table, one page, one yardstick. Where the request has a recipe, training from
    scratch by a shorter schedule (scratch) stands beside them: what a cheap method has to beat.

    lethe compare presets/demo.yaml
    lethe compare request.yaml 'method=[finetune,salun,scrub]' seeds=3
    lethe compare request.yaml method=salun 'method.lr=[0.1,0.01]'
    """
    _work(common, request, overrides, dry_run, again, cache, export=export, verb="compare", page=not no_page, show_ids=show_ids,
          wanted=(require, max_loss))


@working
def check_model(common: Working, request: RequestFile, overrides: Overrides = None, cache: Cache = None) -> None:
    """Look at model, data and request in seconds, before anything is trained: what is well, what is doubtful, what is wrong.

    lethe check-model request.yaml
    """
    from lethe.cli.door import table

    asked = common.request(request, overrides)
    options = common.options(cache=cache)
    from lethe.work.door.look import look

    found = look(asked, options)
    wrong = any(one.level == "error" for one in found)
    print(json.dumps({"ok": not wrong, "findings": [one.row for one in found]}) if common.as_json else table(found))
    if wrong:
        raise typer.Exit(2)


@working
def audit(common: Working,
          target: Annotated[str | None, typer.Argument(metavar="[RUN|REQUEST]", help="A run folder, or a request (with "
                                                       "--unlearned). Neither: files alone, see the other options.")] = None,
          overrides: Overrides = None, dry_run: DryRun = False,
          unlearned: Annotated[Path | None, typer.Option(help="The model to audit (as Lethe or its library saves it).")] = None,
          original: Annotated[Path | None, typer.Option(help="The model before.")] = None,
          retrained: Annotated[list[Path] | None, typer.Option(help="A model trained without the forget set; repeat it.")] = None,
          base: Annotated[Path | None, typer.Option(help="What original and retrained started from, if they share it.")] = None,
          forget: Annotated[Path | None, typer.Option(help="Data that should be forgotten.")] = None,
          retain: Annotated[Path | None, typer.Option(help="Data that should be kept.")] = None,
          holdout: Annotated[Path | None, typer.Option(help="Data like the forget set that no model has seen.")] = None,
          test: Annotated[Path | None, typer.Option(help="Data for utility.")] = None,
          family: Annotated[str | None, typer.Option(help="Default: recognised by the model's files.")] = None,
          depth: Annotated[str, typer.Option(help="quick | standard | deep")] = "standard",
          output: Annotated[Path | None, typer.Option(help="Where the page goes.")] = None,
          require: Require = None, max_loss: MaxLoss = None) -> None:
    """Audit the models of a run again, any saved model on the task of a request, or model files on data files.

    lethe audit runs/0a1b2c --depth deep
    lethe audit request.yaml --unlearned model.safetensors
    lethe audit --unlearned new.safetensors --original old.safetensors --forget forget.npz model.code=net.py:make
    """
    from lethe.cli import audit as command
    from lethe.report.report import without_figures, without_page

    required(require, max_loss, output)
    if (missing := without_page() or without_figures()) and not common.quiet:
        print(missing, file=sys.stderr)
    if forget is not None:
        parts = {"original": original, "unlearned": unlearned, "retrained": retrained or (), "base": base, "forget": forget,
                 "retain": retain, "holdout": holdout, "test": test, "family": family, "allow_pickle": common.allow_pickle}
        common.trusting(Path.cwd())
        place = output or Path("audit.html")
        found = command.of_files(parts, [*([target] if target else []), *(overrides or [])], depth, common.options())
    else:
        if target is None:
            fail("there is nothing to audit. Name a run, a request with --unlearned, or --unlearned MODEL --forget DATA.")
        found, usual = command.of_request(Path(str(target)), common.request(Path(str(target)), overrides), unlearned, depth,
                                          common.options(), dry_run)
        place = output or usual
    if isinstance(found, dict):
        common.show(found)
        return
    found.save(place.with_suffix(".json"))   # first: a page that cannot be written loses nothing
    if shown := place.suffix in (".json", ".csv") or not without_page():
        found.save(place)
    where = f"Page:    {place}" if shown else f"Numbers: {place.with_suffix('.json')}"
    print(found.json() if common.as_json else f"{found.table()}\n\n{where}")
    if status := reached(found.results, require, max_loss):
        raise typer.Exit(status)


@working
def train(common: Working, request: RequestFile, overrides: Overrides = None,
          exact: Annotated[str, typer.Option("--exact", help="s3t, sisa, sharded, shard_lora, sgtm, nulls.")] = "s3t",
          output: Annotated[Path, typer.Option(help=OUTPUT)] = Path("exact")) -> None:
    """Train a model from which records can later be deleted, exactly or (sgtm, nulls) by switching units off, with a manifest of
    what each part has read.

    lethe train request.yaml --exact sisa --output exact
    """
    asked = common.request(request, overrides)
    options = common.options()
    from lethe.work.train import train as trained

    common.show(trained(asked, exact, output, options))


@working
def protect(common: Working, request: RequestFile, overrides: Overrides = None,
            output: Annotated[Path, typer.Option(help=OUTPUT)] = Path("protected"),
            bound: Annotated[float, typer.Option(help="Largest change of a pixel, of its range 0 to 1.")] = 16 / 255,
            clusters: Annotated[int, typer.Option(min=2, help="Perturbations; images of a cluster share theirs.")] = 10,
            steps: Annotated[int, typer.Option(min=1, help="Gradient steps for each perturbation.")] = 200) -> None:
    """Perturb images before training, so that models learn little from them, and measure how little.

    lethe protect request.yaml --output protected --bound 0.06
    """
    asked = common.request(request, overrides)
    options = common.options()
    from lethe.work.protect import Protection
    from lethe.work.protect import protect as protected

    common.show(protected(asked, output, options, Protection(bound, clusters, steps, asked.seed)))


@working
def pool(common: Working, request: RequestFile, overrides: Overrides = None,
         take: Annotated[str, typer.Option(help="I/N: only the I-th of N shares, counted from 1.")] = "1/1",
         cache: Cache = None,
         scenario: Annotated[str | None, typer.Option(help="Only this scenario.")] = None,
         what: Annotated[str, typer.Option(help="all | references | shadows")] = "all",
         strategy: Annotated[str, typer.Option(help="How they are trained; default: one after the other.")] = "serial",
         list_only: Annotated[bool, typer.Option("--list", help="Show the models and their state; train none of them.")] = False,
         ) -> None:
    """Train ahead the models that a request compares with, all or a share of them: lethe run then finds them in the cache.

    lethe pool request.yaml --list
    lethe pool request.yaml --take 1/4
    """
    from lethe.cli import pool as command
    from lethe.pools.take import take_of

    asked, share = common.request(request, overrides), take_of(take)
    print(command.trained(asked, common.options(cache=cache), share, scenario, what, strategy, list_only, common.as_json))


@working
def triage(common: Working, request: RequestFile, overrides: Overrides = None) -> None:
    """Rank the records to forget: which of them show in the model, which others cover, which have an equal that stays.

    lethe triage request.yaml
    """
    from lethe.cli.triage import table

    asked = common.request(request, overrides)
    options = common.options()
    from lethe.work.triage import triaged

    found = triaged(asked, options)
    print(json.dumps(found) if common.as_json else table(found))


@working
def bench(common: Working,
          suite: Annotated[str | None, typer.Argument(metavar="[SUITE]", help="A suite; none: list them.")] = None,
          overrides: Overrides = None,
          again: Again = False, cache: Cache = None,
          workers: Annotated[int, typer.Option(min=1, help="Processes that share the work, one thread each.")] = 1,
          output: Annotated[Path | None, typer.Option(help="Folder of the numbers; default: measured/.")] = None,
          page: Annotated[Path | None, typer.Option(help="Measure nothing: write what was measured as a page, here.")] = None,
          ) -> None:
    """Measure every method on a suite of requests, as a user runs it, and keep the numbers by method.

    lethe bench
    lethe bench digits 'seeds=[0]' --output measured
    lethe bench strangers --workers 16
    lethe bench strangers --page docs/measured.md
    """
    from lethe.cli import bench as command

    if suite is None:
        common.show(command.listed())
        return
    if page is not None:
        common.show(command.written_page(suite, page, output))
        return
    common.show(command.measured(suite, overrides or [], common.options(again=again, cache=cache), output, workers))


def _work(common: Working, path: Path, overrides: list[str] | None, dry_run: bool, again: bool, cache: Path | None, export: bool,
          verb: str, page: bool, show_ids: bool, wanted: tuple[list[str] | None, float | None]) -> None:
    required(*wanted)
    from lethe.work.request import SHORT, beside_scratch

    asked = common.request(path, overrides)
    request = beside_scratch(asked) if verb == "compare" else asked
    options = common.options(again=again, export=export, cache=cache, page=page, show_ids=show_ids,
                             spared=() if request is asked else (SHORT,))
    from lethe.cli.run import after, status_of
    from lethe.work.execute import carry_out
    from lethe.work.execute import dry_run as planned

    if dry_run:
        show(planned(request, options), common.as_json)
        return
    report = carry_out(request, options)
    if report is None:   # a follower under torchrun: the first process reports
        return
    print(report.json() if common.as_json else after(report, request, path, verb, export))
    status = status_of(report) or reached(report.results, *wanted)
    if status:
        raise typer.Exit(status)
