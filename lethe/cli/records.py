"""The commands that read what was done: report, results, schema, certify, verify; and those for new methods: new, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lethe.cli.common import Json, Working, fail, working, written_as
from lethe.errors import OutOfRange, nearest

FORMATS = ("text", "md", "latex", "json")


def report(target: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or a results.json.")],
           output: Annotated[Path | None, typer.Option(help="Page (.html), data (.json) or table (.csv).")] = None,
           figures: Annotated[Path | None, typer.Option(help="Folder for the figures as SVG, PNG and CSV.")] = None,
           form: Annotated[str, typer.Option("--format", help="text | md | latex | json: how the table is printed.")] = "text",
           as_json: Json = False) -> None:
    """Show the results of a run; write its page or figures again.

    lethe report runs/0a1b2c
    lethe report runs/0a1b2c --format latex
    lethe report runs/0a1b2c --output page.html --figures figures
    """
    from lethe import report as pages
    from lethe.report.report import load

    form = "json" if as_json else form
    if form not in FORMATS:
        raise OutOfRange(f"--format {form} is not a format{nearest(form, FORMATS)}, so nothing was read. "
                         f"Write one of: {', '.join(FORMATS)}.")
    if output is not None:
        written_as("--output", output)
    found = load(_existing(target))
    if output:
        found.save(output)
    if figures:
        pages.figures(found.results, figures)
    if form == "md":
        print(pages.table_text(found.results, "md"))
    elif form == "latex":
        print(pages.table_text(found.results, "latex"))
    else:
        print(found.json() if form == "json" else found.table())


def results(output: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs"),
            method: Annotated[str | None, typer.Option(help="Only runs with this method.")] = None,
            family: Annotated[str | None, typer.Option(help="Only this family.")] = None,
            verdict: Annotated[str | None, typer.Option(help="Only rows with this verdict.")] = None,
            export: Annotated[Path | None, typer.Option(help="Write all evidence to this .csv or .json.")] = None,
            verify: Annotated[bool, typer.Option("--verify", help="Check the hash chain, and the files of every run.")] = False,
            head: Annotated[str | None, typer.Option(help="With --verify: a head printed earlier, N:HASH, which must still be in "
                                                          "the chain.")] = None,
            as_json: Json = False) -> None:
    """List, filter and export earlier runs.

    lethe results --method salun
    lethe results --export evidence.csv
    lethe results --verify --head 12:a41f…
    """
    from lethe.cli.ledger import show_results

    show_results(output, method, family, verdict, export, verify, head, as_json)


def schema(what: Annotated[str, typer.Argument(help="results | request")]) -> None:
    """Print the JSON Schema of results.json, or of a request.

    lethe schema request > request.schema.json
    """
    from lethe.cli.schema import show_schema

    show_schema(what)


@working
def certify(common: Working, run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
            key: Annotated[Path, typer.Option(help="Private key (PEM, Ed25519) that signs; created if it does not exist.")],
            method: Annotated[str | None, typer.Option(help="Whose model, when the run has several methods.")] = None,
            scenario: Annotated[str | None, typer.Option(help="Which request, when the run has several.")] = None,
            declare: Annotated[Path | None, typer.Option(help="YAML: request, inventory, notifications, …: see docs.")] = None,
            output: Annotated[Path | None, typer.Option(help="Folder of the certificate; default: certificates/ beside the run.")]
            = None,
            record: Annotated[str | None, typer.Option(help="Issue nothing, but write the proof by which a person "
                                                       "looks up this record: verify --record ID --proof FILE.")] = None) -> None:
    """Sign what may be claimed about a run: claims with their evidence, commitments, hashes.

    lethe certify runs/0a1b2c --key issuer.pem
    """
    from lethe.cli.certificate import certify as issue

    common.trusting(run.parent.parent)
    issue(run, key, output, method, scenario, declare, common.options(), common.as_json, record)


@working
def verify(common: Working, certificate: Annotated[Path, typer.Argument(metavar="CERT", help="The folder of a certificate.")],
           public_key: Annotated[Path | None, typer.Option(help="The issuer's public key (PEM), as the issuer sent it.")] = None,
           model: Annotated[Path | None, typer.Option(help="Folder of the model that the certificate should be about.")] = None,
           ledger: Annotated[Path | None, typer.Option(help="The issuer's ledger.sqlite.")] = None,
           reexecute: Annotated[bool, typer.Option("--reexecute", help="Repeat the run and compare the weights.")] = False,
           run: Annotated[Path | None, typer.Option(help="The run folder, for --reexecute.")] = None,
           record: Annotated[str | None, typer.Option(help="The id of one record, to be found among the forgotten ones.")] = None,
           proof: Annotated[Path | None, typer.Option(help="What opens that record, made by: lethe certify --record ID.")] = None
           ) -> None:
    """Check a certificate offline: signature, hashes, commitments, log, claims. Exit status 3 when it does not hold.

    lethe verify certificates/0a1b2c --public-key issuer.pub.pem
    """
    from lethe.cli.certificate import verify as checked

    if run is not None:
        common.trusting(run.parent.parent)
    options = common.options() if reexecute else None
    if not checked(certificate, public_key, model, ledger, run, options, common.as_json, record, proof):
        raise typer.Exit(3)


def new(kind: Annotated[str, typer.Argument(help="method | audit")], name: Annotated[str, typer.Argument(help="e.g. foo")],
        family: Annotated[str, typer.Option(help="any, or a family: lethe describe families")] = "any") -> None:
    """Write a new method or audit and its test, running and failing on purpose; outside the source tree as a package of its own.

    lethe new method foo --family lm
    """
    from lethe.cli.scaffold import write

    written = write(kind, name, family)
    for path in written:
        print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    if written[0].name == "pyproject.toml":
        print(f"\nLethe finds it once it is installed:  pip install -e ./{written[0].parent.name} && lethe check {name}")


def check(name: Annotated[str, typer.Argument(help="A method or an audit.")]) -> None:
    """Check a method or an audit: documentation, golden test, layers, and the matrix on every tiny model.

    lethe check salun
    """
    from lethe.cli.scaffold import check as check_one

    raise typer.Exit(check_one(name))


def _existing(path: Path) -> Path:
    wanted = path / "results.json" if path.is_dir() else path
    if not wanted.exists():
        fail(f"{wanted} does not exist, so there is nothing to show. lethe results lists the finished runs.")
    return path
