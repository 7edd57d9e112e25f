"""Lists of prompts with what their pictures showed: I2P (Schramowski et al. 2023, arXiv:2211.05105; AIML-TUDA/i2p), and the
shorter ones of ESD (arXiv:2303.07345) and UnlearnDiffAtk (arXiv:2310.11868; OPTML-Group/Diffusion-MU-Attack).

    prompt, categories ("sexual, violence"), hard (0 or 1), inappropriate_percentage, nudity_percentage, sd_seed, …   I2P
    case_number, prompt, evaluation_seed, evaluation_guidance                                                         the others

Parts: forget, prompts for what is to go; keep, those that methods may preserve; outside, those that audits alone ask: a file for
each, of which the options below choose from the first. For text-to-image models, whose data.concept says what is looked for.
Deviations: seeds and guidance of a line stand in its record and are not used: every model draws each prompt from noise of its own
seeds. What I2P judges its pictures with (Q16, NudeNet) is not here: the task's judge looks for data.concept.
"""

from __future__ import annotations

from lethe.core.config import Natural, NonNegative, config
from lethe.data.editions import Files, chosen, text
from lethe.data.records import Record
from lethe.errors import DataError, WrongColumn

VERSIONS = {
    "4987e201148cfa3bd3dabfb67e5681ca09e64155cdadf03b0a0c295269d2c18c": "UnlearnDiffAtk church, 50 prompts",
    "e561240be67ea653bac8dd22bc31d44ae6ccb88268b2e306448eea39feefa6cd": "UnlearnDiffAtk garbage truck, 50 prompts",
    "f44fdef671aecf3f759ef53101e23b5cd614e3da6e2021c3c3d0a1c35a5fe0e5": "UnlearnDiffAtk parachute, 50 prompts",
    "6d5fc0988e40e7ef97e035031badf52e6a0e971b96be4bf277c2eee3c55f546d": "UnlearnDiffAtk tench, 50 prompts",
    "9d0b141b6674b5ef93be5a38c4d220ec56ca1ec096cdfdb5baf0932deca72362": "UnlearnDiffAtk Van Gogh, 50 prompts",
}
SEEDS = ("sd_seed", "evaluation_seed")


@config(name="data.published")
class PromptList:
    """Files of prompts."""

    forget: str                        # prompts for what is to go, e.g. i2p_benchmark.csv
    keep: str = ""                     # prompts that methods may preserve; empty: none
    outside: str = ""                  # prompts that audits alone ask, e.g. captions of COCO; empty: none
    category: str = ""                 # of forget, only this one of its categories; empty: all      [e.g. sexual]
    hard: bool = False                 # of forget, only what is marked as hard
    inappropriate: NonNegative = 0.0   # of forget, least inappropriate_percentage
    nudity: NonNegative = 0.0          # of forget, least nudity_percentage
    limit: Natural = 0                 # the first so many of each; 0: all


def read(cfg: PromptList, files: Files) -> dict[str, list[Record]]:
    wanted = [row for row in told(files.rows(cfg.forget), cfg.category)
              if (not cfg.hard or number(row, "hard"))
              and all(not least or number(row, f"{column}_percentage") >= least
                      for column, least in (("inappropriate", cfg.inappropriate), ("nudity", cfg.nudity)))]
    others = {part: files.rows(name) for part, name in (("keep", cfg.keep), ("outside", cfg.outside)) if name}
    return {part: [record(row) for row in rows[: cfg.limit or None]] for part, rows in {"forget": wanted, **others}.items()}


def told(rows: list[Record], category: str) -> list[Record]:
    """The prompts of a category, of which a line may have several."""
    if not category:
        return rows
    named = [Record({**row, "category": one.strip()}, row.place) for row in rows for one in text(row, "categories").split(",")]
    return chosen(named, "category", category, "category")


def number(row: Record, column: str) -> float:
    """A number in a column; DataError with its line where there is none."""
    if column not in row:
        raise WrongColumn(f"{row.place} has no column {column!r}, which an option of data.published chooses by. Leave the option "
                          f"out, or provide I2P itself. Its columns: {', '.join(row)}.")
    try:
        return float(row[column])
    except ValueError:
        raise DataError(f"{row.place} has {str(row[column])[:40]!r} in column {column!r}, which is no number, so it cannot be "
                        "chosen by. Copy the published file again, or leave the line out.") from None


def record(row: Record) -> Record:
    """A prompt, its categories, and the seed with which its picture was published."""
    seed = next((row[key] for key in SEEDS if key in row), None)
    return Record({"prompt": text(row, "prompt"), "categories": row.get("categories", ""), "seed": seed}, row.place)
