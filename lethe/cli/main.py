"""`lethe`: the command line. Data goes to stdout, progress and errors to stderr; exit status 0 means success.

    0 done · 2 the request, data or model cannot be used (no run was started) ·
    3 done, but a method failed, changed nothing or was ended by the watchdog, or a certificate does not hold ·
    4 done, but --require, --max-loss or --until was not reached ·
    1 a defect: of Lethe (traceback), or of a method or an audit (the others are done; traceback in the run's failures/) ·
    130 interrupted; 143 by SIGTERM, 129 by SIGHUP (repeat the command to continue)
"""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from lethe.cli import clean, concepts, describe, init, records, watermark, work
from lethe.cli.common import with_paths
from lethe.core import trust
from lethe.core.extras import own_version
from lethe.errors import LetheError
from lethe.train.stop import ENDINGS, received

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Removes data, classes, entities and concepts from trained models, and measures how well they are gone.")


def _version(asked: bool) -> None:
    if asked:
        print(own_version())
        raise typer.Exit


@app.callback()
def lethe(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False
          ) -> None:
    """Removes data, classes, entities and concepts from trained models, and measures how well they are gone."""


def _help(text: str) -> str:
    """A docstring as help: its lines that begin with `lethe ` are examples, which the help does not wrap."""
    lines = text.strip().splitlines()
    first = next((i for i, line in enumerate(lines) if line.strip().startswith("lethe ")), None)
    if first is None:
        return text
    examples = [f"  {line.strip()}" for line in lines[first:]]
    return "\n".join([*(line.strip() for line in lines[:first]), "\b", "Examples:", *examples])


for one in (init.init, work.run, work.calibrate, work.compare, work.check_model, work.audit, records.report, describe.methods,
            describe.audits, work.train, work.protect, work.pool, work.triage, describe.describe, work.bench, records.results,
            records.schema, records.certify, records.verify, clean.clean, concepts.concepts, watermark.watermark, records.new,
            records.check):
    app.command(one.__name__.replace("_", "-"), help=_help(one.__doc__ or ""))(with_paths(one))


def main() -> None:
    """Entry point: errors on purpose become one line and exit status 2; SIGTERM and SIGHUP end as Ctrl-C does."""
    def ended(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    for number in ENDINGS:
        if signal.getsignal(number) != signal.SIG_IGN:   # nohup has it ignored
            signal.signal(number, ended)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):   # UTF-8 whatever the locale; what no encoding holds is escaped
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        with trust.nothing():   # each command allows what its flags say
            ending = app(standalone_mode=False)   # typer turns Exit and Ctrl-C into a returned status, older ones into Abort
        if ending == 130:
            raise KeyboardInterrupt
        if isinstance(ending, int) and ending:
            sys.exit(ending)
    except LetheError as error:
        _die(f"{type(error).__name__}: {error}", 2)
    except (KeyboardInterrupt, typer.Abort):
        _die("Interrupted; nothing is lost. Repeat the same command to continue from the last checkpoint.",
             128 + (received[0] if received else signal.SIGINT))
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if hasattr(error, "format_message"):   # usage errors of the command line itself
            place = getattr(error, "ctx", None)
            command = f" {place.info_name}" if place is not None and place.parent is not None else ""
            _die(f"{error.format_message().rstrip('.')}. See lethe{command} --help.", 2)
        if type(error).__name__ == "OutOfMemoryError":   # torch's, which is not imported for a command that needs none
            _die(f"OutOfMemory: the device is full: {str(error).splitlines()[0]} What was finished is kept. Free the device, or "
                 "take less room (settings.precision=bfloat16, settings.cache_mb, a smaller batch_size) and repeat it.", 2)
        raise


def _die(text: str, status: int) -> None:
    print(text, file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
