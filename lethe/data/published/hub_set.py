"""HUB, the holistic unlearning benchmark: prompts for a concept, its neighbours, attacks and other languages. Moon, Lee, Park &
Kim (2025), arXiv:2410.05664 (ICCV 2025); the folder `prompts` of ml-postech/HUB.

    target_image/Mario.csv             a prompt a line, without a header
    pinpoint_ness/Mario.csv            noun, similarity: words near the concept, the nearest first; asked as "a photo of {noun}"
    attack_robustness/Mario.csv        an adversarial prompt a line
    multilingual_robustness/Mario.csv  Original, Spanish, French, German, Italian, Portuguese, Index

Parts: forget, prompts for the concept; outside, its neighbours; attack; and each language as asked for. Of a file that is not
there no part. attack and the languages are for the audit `prompt_lists`. For text-to-image models.
Deviations: the first `limit` of each, where the benchmark takes 100 neighbours, ten pictures each, and all else whole; neighbours
that hold the name of the concept are left out, because they would be forgotten and kept at once. Left out: its selective
alignment, which asks a model of pictures and words, quality and aesthetics, and its judges (a model of pictures and words, a
detector of celebrities): the judge looks for data.concept. Known by their bytes are the files of Mario, Nudity and Van Gogh.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

from lethe.core.config import Count, config
from lethe.core.user_files import lines_of
from lethe.data.editions import OPTION, Files, text
from lethe.data.records import Record

Language = Literal["Spanish", "French", "German", "Italian", "Portuguese"]
VERSIONS = {
    "f05121f2b4ba89112bf01e49592d3da0ee01f46e7329d3fc6c2e7c505a9248af": "HUB target_image, Mario",
    "17eaee44769eaeba309299c05a9d9d5fa9c222c5fdf6ea625b0633c091a00b2a": "HUB pinpoint_ness, Mario",
    "5108d8e0206121bdae811d7c351e33531a816f88236428ca174105caed39fd9e": "HUB attack_robustness, Mario",
    "7573a0962e9639634f4c14eae3a5bde3689fb841b59478538696486a1315dafd": "HUB multilingual_robustness, Mario",
    "d783a882e9eccc4ac55d289579859e080c50e03c8a99d944210fbf2c04f4ad19": "HUB target_image, Nudity",
    "caaf86f40b63c7c3810e7805ea6d46eddbce731d1aada2942475f083882c23df": "HUB pinpoint_ness, Nudity",
    "181aedbe351787ebdc3c64a165162292e282423dd63972dc5a7b54745957761f": "HUB attack_robustness, Nudity",
    "9a81c67aadb6628ec6589d0ef6a35c1fcdb6950f926ad9f5af7474f2c94a4830": "HUB multilingual_robustness, Nudity",
    "6a70bbc4b8b66e5ee012dd4aabc9c8ec27589f12b5971ccafbe5ff3d33816cc3": "HUB target_image, Van Gogh",
    "ce9a6730d45f89a5fc59fe84b0d54dbcf73acdc447ba4a938990777c46e75cd1": "HUB pinpoint_ness, Van Gogh",
    "8ea1a056ec1851919fdf3828673e1793f305f14e2335ea85d537ffe3083b1bf8": "HUB attack_robustness, Van Gogh",
    "d9266958a19909ff74ca8e513f5d3c8bb397b5f7206d47bf5714d4a15fef6fd0": "HUB multilingual_robustness, Van Gogh",
}


@config(name="data.published")
class Hub:
    """The folder of prompts, and the concept."""

    folder: str                            # of target_image/ and its like
    target: str                            # the name of its files                                [e.g. Van Gogh]
    limit: Count = 100                     # the first so many of each part                       [HUB's of neighbours]
    languages: tuple[Language, ...] = ()   # parts of the multilingual file


def read(cfg: Hub, files: Files) -> dict[str, list[Record]]:
    def name(task: str) -> str:
        return str(PurePath(cfg.folder) / task / f"{cfg.target}.csv")

    def written(task: str) -> list[Record]:
        path = files.path(name(task))
        lines = [(number, line.strip()) for number, line in enumerate(lines_of(path, OPTION).splitlines(), 1)]
        return [Record({"prompt": line}, f"line {number} of {path.name}") for number, line in lines if line][: cfg.limit]

    found = {"forget": written("target_image")}
    if files.has(name("pinpoint_ness")):
        near = [(row, text(row, "noun")) for row in files.rows(name("pinpoint_ness"))]
        found["outside"] = [Record({"prompt": f"a photo of {noun}"}, row.place) for row, noun in near
                            if cfg.target.casefold() not in noun.casefold()][: cfg.limit]
    if files.has(name("attack_robustness")):
        found["attack"] = written("attack_robustness")
    rows = files.rows(name("multilingual_robustness")) if cfg.languages else []
    return found | {language.lower(): [Record({"prompt": text(row, language)}, row.place) for row in rows[: cfg.limit]]
                    for language in cfg.languages}
