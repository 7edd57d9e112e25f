"""The kinds of things that come in, each as a generator of cases: requests, overrides, command lines, data files, ledgers."""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import typer
import yaml
from fuzzing import odd, scrambled

from lethe.core import trust
from lethe.errors import RequestError

PRESETS = Path(__file__).resolve().parent.parent / "presets"


@cache
def presets() -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(PRESETS.glob("*.yaml"))]


@cache
def options() -> list[str]:
    """Every option of every section of a request, as `section.option`."""
    from lethe.cli.describe import SECTIONS, section_record

    return [f"{section}.{option.name}" for section in SECTIONS for option in section_record(section).options]


def mutated(draw: random.Random, content: Any) -> Any:
    """A request with some of its values replaced, added or removed, at any depth."""
    content = copy.deepcopy(content)
    for _ in range(draw.randint(1, 4)):
        place, path = content, None
        while isinstance(place, (dict, list)) and place:
            path = place
            key: Any = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
            if draw.random() < 0.4:
                break
            place = place[key]
        if path is None:
            return odd(draw)
        kind = draw.randrange(5)
        if kind == 0 and isinstance(path, dict):
            section, _, option = draw.choice(options()).partition(".")
            path[draw.choice([option, section, str(odd(draw))])] = odd(draw)
        elif kind == 1:
            del path[key]
        else:
            path[key] = odd(draw)
    return content


def started(request: Any) -> None:
    from lethe.work.job import resolve
    from lethe.work.options import Options

    resolve(request, Options())


def requests(draw: random.Random, place: Path) -> None:
    """A request file: a preset with odd values, or with damaged text."""
    from lethe.work.request import read

    content = draw.choice(presets())
    file = place / "request.yaml"
    if draw.random() < 0.7:
        text = yaml.dump(mutated(draw, content), allow_unicode=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    else:
        text = scrambled(draw, yaml.safe_dump(content).encode())
    file.write_bytes(text)
    with trust.nothing():
        started(read(file))


def overrides(draw: random.Random, place: Path) -> None:
    """key=value on the command line, over a preset."""
    from lethe.work.request import parse

    given = []
    for _ in range(draw.randint(1, 3)):
        key = draw.choice(
            [
                *options(),
                "method",
                "method.lr",
                "model.options.x",
                "seeds",
                "scenarios.a.forget",
                "modifiers.where.name",
                str(odd(draw)),
                "data.test.path",
                "audit.audits",
                "audit.margins.x",
                "forget.worst_case.count",
                "model..",
            ]
        )
        value = draw.choice([str(odd(draw)), json.dumps(odd(draw), default=str), "3"])
        given.append(draw.choice([f"{key}={value}", f"{key}={value}", key, f"={value}", value]))
    with trust.nothing():
        started(parse(copy.deepcopy(draw.choice(presets())), given))


@cache
def verbs() -> dict[str, Any]:
    import typer

    from lethe.cli.main import app

    found: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    asking = ("check", "init", "clean", "new")  # these start tests, ask, delete, or write into the house
    return {name: command for name, command in found.items() if name not in asking}


def command_lines(draw: random.Random, place: Path) -> None:
    """Words after `lethe`: known and odd options with known and odd values, in an empty folder or one with junk in it."""
    from lethe.cli.main import app

    place = place / "a" / "b" / "c" / "d"  # whatever is written to ../../x stays below
    place.mkdir(parents=True)
    (place / "junk.yaml").write_bytes(scrambled(draw, b"family: classification\nmodel: {zoo: mlp}\ndata: {path: none.npz}\n"))
    (place / "runs").mkdir()
    for name in ("runs/ledger.sqlite", "results.json", "certificate.json", "data.csv", "model.safetensors", "suite.yaml"):
        if draw.random() < 0.5:
            (place / name).write_bytes(draw.choice([b"", b"{}", b"[]", b"null", draw.randbytes(40)]))
    verb = draw.choice(list(verbs()))
    flags = [flag for option in verbs()[verb].params for flag in option.opts if flag.startswith("-") and flag != "--help"]
    names = [
        "junk.yaml",
        ".",
        "runs",
        "results.json",
        "data.csv",
        "nothing.yaml",
        "model.safetensors",
        "none/x",
        "--json",
        "method",
        "salun",
        "x=1",
        "/dev/null",
        "-1",
        "--",
        "certificate.json",
    ]
    words = [
        verb,
        *(draw.choice([draw.choice(names), draw.choice(flags or names), said(odd(draw))]) for _ in range(draw.randint(0, 5))),
    ]
    before = Path.cwd()
    os.chdir(place)
    try:
        with trust.nothing(), open(os.devnull, "w") as nowhere:
            import contextlib

            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                app(words, standalone_mode=False)
    except (SystemExit, typer.Exit, typer.Abort):
        return
    except Exception as error:
        if hasattr(error, "format_message"):  # as in `main`
            raise RequestError(f"a usage error: {error.format_message()}") from None
        raise
    finally:
        os.chdir(before)


def said(value: Any) -> str:
    """A value as a word of a command line: without NUL, which no system passes on, and as bytes become text there."""
    return str(value).replace("\x00", "0").encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


# -- data files ---------------------------------------------------------------------------------------------------------


def loaded(draw: random.Random, options: dict[str, Any]) -> None:
    """Read as a request would be, and divided."""
    from lethe.data.load import load
    from lethe.data.select import divide

    if draw.random() < 0.3:
        options["holdout"] = draw.choice([0.2, 0.5, "test"])
    with trust.nothing():
        splits = load(options)
        chosen = draw.choice(
            [
                {"fraction": 0.3},
                {"label": 1},
                {"ids": ["a", "1"]},
                {"text": "a"},
                {"index": [0, 2]},
                {"query": "a > 1"},
                {"query": "y == 1 and a != x"},
                {"column": {"a": 1}},
                {"entity": "x"},
            ]
        )
        divide(splits["train"], chosen)
        assert splits["train"].fingerprint


def tables(draw: random.Random, place: Path) -> None:
    """CSV and TSV, plain and gzipped."""
    rows = [
        ["a", "b", "id", "y"],
        *(
            [
                str(draw.choice([1, 2.5, "x", "", "nan", "inf", "1e400", "é", "-", odd(draw)]))
                if draw.random() < 0.2
                else str(i)
                for _ in range(2)
            ]
            + [str(i), str(i % 2)]
            for i in range(12)
        ),
    ]
    text = "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")
    data = scrambled(
        draw,
        text.decode("utf-8", "ignore").encode(draw.choice(["utf-8", "utf-8", "utf-16", "utf-8-sig"])),
        draw.choice([0, 1, 4]),
    )
    name = draw.choice(["d.csv", "d.tsv", "d.csv.gz"])
    (place / name).write_bytes(scrambled(draw, gzip.compress(data), 1) if name.endswith("gz") else data)
    extra = draw.choice(
        [
            {},
            {"id": "id"},
            {"target": "number"},
            {"target": "log"},
            {"part": "b"},
            {"impute": True},
            {"drop": ["a"]},
            {"categorical": ["a"]},
            {"classes": ["0", "1"]},
            {"kind": "labelled_text", "text": "a"},
        ]
    )
    loaded(draw, {"path": str(place / name), "label": "y", **extra})


def arrays(draw: random.Random, place: Path) -> None:
    """npz and npy: odd types, shapes, orders, equal ids, damaged archives."""
    n = draw.choice([0, 1, 5, 12])
    kinds = [
        "<f4",
        ">f4",
        "<f2",
        ">i8",
        "u1",
        "?",
        "<c8",
        "<U3",
        "S3",
        "<M8[s]",
        "<m8[s]",
        "<f8",
        "<u4",
        "<u8",
        "O",
        [("a", "<i4")],
        "<f16",
    ]

    def made(shape: tuple[int, ...]) -> np.ndarray:
        kind = draw.choice(kinds[:6] + kinds)
        base = np.arange(int(np.prod(shape))).reshape(shape) % 7
        try:
            array = base.astype(kind) if draw.random() < 0.8 else np.zeros(shape, dtype=kind)
        except (TypeError, ValueError):
            array = np.zeros(shape, dtype=kind)
        return np.asfortranarray(array) if draw.random() < 0.2 else array

    shapes = [(n,), (n, 3), (n, 1, 4, 4), (n, 4, 4, 3), (n, 0), (), (n + 1, 3), (2, n)]
    y = (
        (np.arange(n) % 2).astype(draw.choice([">i8", "<i4", "u1", "?", "<f8", "<U2", "<u8"]))
        if draw.random() < 0.7
        else made(draw.choice(shapes))
    )
    ids = draw.choice(
        [np.zeros(n), np.arange(n), np.array(["a"] * n), np.array([f"r{i}" for i in range(n)]), made(draw.choice(shapes))]
    )
    if draw.random() < 0.3:
        (place / "x.npy").write_bytes(scrambled(draw, npy(made(draw.choice(shapes))), draw.choice([0, 1, 4])))
        (place / "y.npy").write_bytes(scrambled(draw, npy(y), draw.choice([0, 0, 2])))
        loaded(draw, {"kind": "npy", "x": str(place / "x.npy"), "y": str(place / "y.npy")})
        return
    held = io.BytesIO()
    np.savez(held, x=made(draw.choice(shapes)), y=y, ids=ids, a=made(draw.choice(shapes)))
    data = held.getvalue()
    if draw.random() < 0.2:
        data = data.replace(b"'shape': (", b"'shape': (9999999999, ", 1)
    (place / "d.npz").write_bytes(scrambled(draw, data, draw.choice([0, 0, 2, 6])))
    extra = draw.choice([{}, {"ids": "ids"}, {"channels": "last"}, {"channels": "none"}, {"x": "a"}, {"allow_pickle": True}])
    loaded(draw, {"path": str(place / "d.npz"), **extra})


def npy(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


class Words:
    """As much of a tokenizer as `tokenised` uses: a character is a token."""

    pad_token_id, eos_token_id, bos_token_id = 0, 1, 2
    chat_template = None

    def __call__(self, texts: list[str], add_special_tokens: bool = False) -> dict[str, list[list[int]]]:
        return {"input_ids": [[3 + ord(sign) % 90 for sign in text] for text in texts]}

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(32 + token) for token in tokens)


def lines(draw: random.Random, place: Path) -> None:
    """JSON lines, JSON lists and plain text for language models."""
    from lethe.core.sequences import Format
    from lethe.data.records import read_rows
    from lethe.data.select import divide
    from lethe.data.text import tokenised

    rows = [{"question": f"q {i}", "answer": f"a {i}", "id": f"r{i}", "author": i % 3} for i in range(8)]
    for _ in range(draw.randint(0, 3)):
        row: Any = draw.choice(rows)
        if isinstance(row, dict):
            row[draw.choice([*row, str(odd(draw))])] = odd(draw)
    if draw.random() < 0.2:
        rows[draw.randrange(len(rows))] = odd(draw)
    text = "\n".join(json.dumps(row, ensure_ascii=draw.random() < 0.5, default=str) for row in rows)
    name = draw.choice(["d.jsonl", "d.jsonl", "d.json", "d.txt", "d.jsonl.gz"])
    text = json.dumps(rows, default=str) if name == "d.json" else text
    data = text.encode(draw.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]), "replace")
    data = scrambled(draw, data, draw.choice([0, 1, 5]))
    (place / name).write_bytes(gzip.compress(data)[: draw.choice([None, 30])] if name.endswith("gz") else data)
    with trust.nothing():
        found = read_rows(place / name)
        split = tokenised(
            found, Words(), Format(**draw.choice([{}, {"id": "id"}, {"text": "question"}, {"max_length": 4}])), "train"
        )
        divide(
            split, draw.choice([{"entity": "1"}, {"text": "q"}, {"fraction": 0.3}, {"column": {"author": 1}}, {"ids": ["r1"]}])
        )


def pictures(draw: random.Random, place: Path) -> None:
    """A folder of pictures: odd modes and formats, damaged files, pipes, links in circles."""
    from PIL import Image

    size = draw.choice([(4, 4), (1, 1), (5, 3)])
    for label in ("a", "b"):
        (place / "p" / label).mkdir(parents=True)
        for i in range(3):
            mode = draw.choice(["L", "RGB", "RGB", "RGBA", "P", "1", "CMYK", "I;16", "F", "LA"]) if draw.random() < 0.3 else "L"
            ending = draw.choice(["png", "jpg", "gif", "tif", "webp", "bmp", "ppm"]) if draw.random() < 0.4 else "png"
            held = io.BytesIO()
            try:
                Image.new(mode, size if draw.random() < 0.9 else (7, 2)).save(
                    held, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending)
                )
            except (OSError, KeyError, ValueError):
                held = io.BytesIO(b"nothing")
            (place / "p" / label / f"{i}.{ending}").write_bytes(scrambled(draw, held.getvalue(), draw.choice([0, 0, 0, 3])))
    kind = draw.randrange(12)
    if kind == 0:
        os.mkfifo(place / "p" / "a" / "9.png")
    elif kind == 1:
        (place / "p" / "a" / "circle").symlink_to(place / "p")
    elif kind == 2:
        (place / "p" / "a" / "gone.png").symlink_to(place / "none.png")
    elif kind == 3:
        (place / "p" / "a" / "folder.png").mkdir()
    elif kind == 4:
        os.mkfifo(place / "pipe.npz")
        loaded(draw, {"path": str(place / "pipe.npz")})
    extra = draw.choice([{}, {"size": 4}, {"size": [3, 2]}, {"colour": "grey"}, {"colour": "rgb"}, {"transparent": "white"}])
    loaded(draw, {"kind": "images", "path": str(place / "p"), **extra})


# -- ledgers ------------------------------------------------------------------------------------------------------------


@cache
def sound_ledger() -> bytes:
    import tempfile

    from lethe.ledger import Ledger

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "l.sqlite")
        for i in range(4):
            ledger.started(f"run{i}", "a title", "lethe run", {"method": "salun"})
            ledger.record_failure(f"run{i}", {"method": "salun"}, "lethe run", "an error")
        import sqlite3

        with sqlite3.connect(Path(folder) / "l.sqlite") as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return (Path(folder) / "l.sqlite").read_bytes()


def ledgers(draw: random.Random, place: Path) -> None:
    """The database of the ledger: damaged bytes, changed rows, another database."""
    import sqlite3

    from lethe.ledger import Ledger

    file = place / "ledger.sqlite"
    data = sound_ledger()
    if draw.random() < 0.5:
        file.write_bytes(scrambled(draw, data, draw.choice([1, 20, 200])))
    else:
        file.write_bytes(data)
        with sqlite3.connect(file) as connection:
            for table in ("runs", "failures", "migrations"):
                for trigger in ("update", "delete"):
                    connection.execute(f"DROP TRIGGER IF EXISTS {table}_no_{trigger}")
            column = draw.choice(
                ["config", "versions", "scenarios", "created", "title", "folder", "previous", "hash", "status", "results"]
            )
            value = draw.choice(["{", "null", "[1]", 3, None, "\x00", b"\xff", "x" * 100, "NaN", 1e300])
            try:
                connection.execute(
                    draw.choice(
                        [
                            f"UPDATE runs SET {column} = ? WHERE entry = 2",
                            f"UPDATE runs SET {column} = ?",
                            "UPDATE migrations SET number = ? WHERE number = 2",
                            "UPDATE failures SET error = ?",
                        ]
                    ),
                    (value,),
                )
                if draw.random() < 0.2:
                    connection.execute(
                        draw.choice(
                            [
                                "DROP TABLE failures",
                                "DELETE FROM runs",
                                "DROP TABLE migrations",
                                f"ALTER TABLE runs DROP COLUMN {column}",
                            ]
                        )
                    )
            except sqlite3.Error:
                pass
        connection.close()
    ledger = Ledger(file)
    draw.choice(
        [
            ledger.verify,
            ledger.runs,
            ledger.export,
            lambda: ledger.export("csv"),
            lambda: ledger.run("run1"),
            ledger.head,
            lambda: ledger.results("run1"),
            lambda: ledger.runs(text="a", since="2020-01-01"),
            lambda: ledger.changed_artefacts("run1"),
            lambda: ledger.started("new"),
        ]
    )()


CASES: dict[str, Callable[[random.Random, Path], None]] = {
    "requests": requests,
    "overrides": overrides,
    "command_lines": command_lines,
    "tables": tables,
    "arrays": arrays,
    "lines": lines,
    "pictures": pictures,
    "ledgers": ledgers,
}
