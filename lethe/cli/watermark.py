"""`lethe watermark`: bits in all pictures of a text-to-image pipeline, by which its owner recognises them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lethe.cli.common import Working, acting, one_thread, show, working
from lethe.errors import OutOfRange, RequestError

if TYPE_CHECKING:
    from lethe.models.diffusion.watermark import Reading

Action = Literal["mark", "verify"]
MARKING = ("bits", "rank", "steps", "lr", "psnr")
OPTIONS: dict[Action, frozenset[str]] = {"mark": frozenset({"pictures", "output", "claim", *MARKING}),
                                         "verify": frozenset({"prompt", "count", "max-fpr"})}
NEEDED: dict[Action, tuple[str, ...]] = {"mark": ("pictures", "output"), "verify": ()}


@working
def watermark(common: Working, action: Annotated[Action, typer.Argument(help="What to do.")],
              source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A pipeline folder; verify: or one of pictures.")],
              key: Annotated[Path, typer.Option(help="The key: mark writes it, and only its holder can verify. Keep it secret.")],
              pictures: Annotated[Path | None, typer.Option(help="mark: a folder of pictures like those to be drawn.")] = None,
              output: Annotated[Path | None, typer.Option(help="mark: the folder that is written; it must not exist.")] = None,
              claim: Annotated[list[str] | None, typer.Option(help="mark: what the mark stands for, e.g. a deletion; repeat "
                                                              "it.")] = None,
              bits: Annotated[int | None, typer.Option(help="mark: how many; default 48.")] = None,
              rank: Annotated[int | None, typer.Option(help="mark: of the adapters; default 8.")] = None,
              steps: Annotated[int | None, typer.Option(help="mark: of training; default 800.")] = None,
              lr: Annotated[float | None, typer.Option(help="mark: learning rate; default 0.0005; tiny VAEs: 0.002.")] = None,
              psnr: Annotated[float | None, typer.Option(help="mark: dB that pictures are held near; lower: a stronger mark. "
                                                         "Default 32.")] = None,
              prompt: Annotated[list[str] | None, typer.Option(help="verify: what a pipeline draws; repeat it. Default: no "
                                                               "prompt.")] = None,
              count: Annotated[int | None, typer.Option(help="verify: pictures that a pipeline draws; default 20.")] = None,
              most: Annotated[float | None, typer.Option("--max-fpr", help="verify: how often an unmarked source may be taken "
                                                         "for a marked one; default 1e-6.")] = None) -> None:
    """Mark all pictures of a pipeline, in a copy, and recognise them; status 3 where nothing is recognised.

    lethe watermark mark unlearned --key mark.key --pictures photos --output marked --claim "without Van Gogh"
    lethe watermark verify marked --key mark.key --prompt "a house"
    lethe watermark verify pictures-from-the-web --key mark.key
    """
    options = {"bits": bits, "rank": rank, "steps": steps, "lr": lr, "psnr": psnr}
    acting("watermark", action, {"pictures": pictures, "output": output, "claim": claim, "prompt": prompt, "count": count,
                                 "max-fpr": most, **options}, NEEDED[action], OPTIONS[action])
    one_thread()
    if action == "mark":
        assert pictures is not None and output is not None
        from lethe.core.config import build
        from lethe.models.diffusion import watermark as maker

        cfg = build(maker.Watermark, {name: value for name, value in options.items() if value is not None})
        row = maker.mark(source, pictures, output, key, cfg, claim or ())
        show(row, True) if common.as_json else print(
            f"{output} is marked: {row['bit_accuracy']:.1%} of {row['bits']} bits are read in {row['pictures']} pictures that "
            f"took no part ({row['bit_accuracy_unmarked']:.1%} before), which differ by {row['psnr_db']:.1f} dB. The adapters "
            f"are added to the weights of its vae; {source} was not changed.\nDeposit the SHA-256 of the key, with a date: "
            f"{row['key']}")
        return
    found = _read(source, key, prompt or [""], 20 if count is None else count, 1e-6 if most is None else most)
    show(found.row(), True) if common.as_json else print(_said(found, source))
    if not found.is_marked:
        raise typer.Exit(3)


def _read(source: Path, key: Path, prompts: list[str], count: int, most: float) -> Reading:
    from lethe.models.diffusion import watermark as reader

    if not 0 < most < 1 or count < 1:
        raise OutOfRange(f"--max-fpr {most:g} or --count {count} is out of range, so nothing was read. Take a rate between 0 and "
                         "1, and at least one picture.")
    if not source.is_dir():
        raise RequestError(f"{source} is no folder, so nothing was read. Give a pipeline, or a folder of pictures.")
    _, facts = reader.load_key(key)
    reader.needed(facts["bits"], most)     # before anything is drawn
    if (source / "model_index.json").is_file():
        x = reader.drawn(source, prompts, count)
    else:
        x = reader.pictures(source, tuple(facts["size"]))
    return reader.read(key, x, most)


def _said(found: Reading, source: Path) -> str:
    each = sum(found.each) / len(found.each)
    return (f"{source} {'carries' if found.is_marked else 'does not show'} the mark: {found.matched} of {found.bits} bits match "
            f"in {found.pictures} pictures together (in one alone {each:.1f}). An unmarked source matches so many with "
            f"probability {found.fpr:.2g}; {found.needed} were needed for {found.most:g}.\n"
            f"Claims of the key: {'; '.join(found.claims) or 'none'}. Its SHA-256: {found.key}")
