"""Drawn by fixed random numbers, in the shape of data that people have: spoken digits, mails, the quality of wines.

    spoken_digits  [1, 16, 16] spectrograms of 10 digits by 6 speakers, 12 times each; columns speaker, take
    mails          [200] counts of words, two classes, one label in ten wrong; columns sender, wrong (1)
    wine_quality   11 measurements of a wine, and its quality: a whole number from 3 to 9, half of it noise
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from lethe.core.config import config
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.data import encode as encoding
from lethe.data.context import Context

LEARNS = True   # the numbers of wines are standardised by statistics of the training part
WINES, MAILS, WORDS = 900, 900, 200


@config(name="data")
class Synthetic:
    """720 spectrograms, 900 mails, or 900 wines; the same ones always."""

    name: Literal["spoken_digits", "mails", "wine_quality"] = "spoken_digits"   # which data


def read(cfg: Synthetic, context: Context, name: str) -> dict[str, Split]:
    rng = numpy_generator(0, "synthetic", cfg.name)
    return {name: {"spoken_digits": spoken_digits, "mails": mails, "wine_quality": wines}[cfg.name](rng, name)}


def encode(cfg: Synthetic, splits: dict[str, Split]) -> dict[str, Split]:
    if cfg.name != "wine_quality":
        return splits
    names = [column for column in splits["train"].meta if column != "quality"]
    return encoding.targets(encoding.features(splits, names), "quality", "number")


def spoken_digits(rng: np.random.Generator, name: str) -> Split:
    """Two formants glide from onset to end, a pair of glides a digit; pitch, vocal tract, tempo and timbre are the speaker's."""
    glides = rng.uniform(2, 13, (10, 2, 2))             # [digit, formant, onset and end]
    tract, tempo = rng.normal(0, 0.7, 6), rng.uniform(0.75, 1.0, 6)
    habit = rng.normal(0, 0.45, (6, 10, 2, 2))           # how each of them pronounces each digit
    timbre = rng.uniform(0.0, 0.35, (6, 16))            # [speaker, frequency]: what sounds along
    digit, speaker, take = (part.ravel() for part in np.meshgrid(np.arange(10), np.arange(6), np.arange(12), indexing="ij"))
    time, frequency = np.linspace(0, 1, 16), np.arange(16)[:, None]
    pictures = np.empty((len(digit), 1, 16, 16), dtype=np.float32)
    for i, (d, s) in enumerate(zip(digit, speaker, strict=True)):
        ends = glides[d] + habit[s, d] + tract[s] + rng.normal(0, 0.5, (2, 2))
        path = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * np.clip(time / tempo[s], 0, 1)   # [formant, time]
        sound = sum(np.exp(-0.5 * ((frequency - one) / 0.9) ** 2) for one in path) * (time <= tempo[s])
        pictures[i, 0] = sound + timbre[s][:, None] + rng.normal(0, 0.12, (16, 16))
    columns = {"x": torch.from_numpy(pictures), "y": torch.from_numpy(digit).long()}
    ids = np.array([f"spoken:{d}-{s}-{t}" for d, s, t in zip(digit, speaker, take, strict=True)])
    return Split(columns, name, ids, {"speaker": speaker, "take": take})


def mails(rng: np.random.Generator, name: str) -> Split:
    """Each class has its topics, each sender a habit of words; lengths differ."""
    usual = rng.dirichlet(np.full(WORDS, 0.4))
    topics = rng.dirichlet(np.full(WORDS, 0.08), (2, 3))         # [class, topic, word]
    habits = rng.dirichlet(np.full(WORDS, 0.05), 40)             # [sender, word]
    kind, sender = rng.integers(0, 2, MAILS), rng.integers(0, 40, MAILS)
    chance = 0.45 * usual + 0.35 * topics[kind, rng.integers(0, 3, MAILS)] + 0.2 * habits[sender]
    counts = rng.poisson(chance * rng.integers(12, 40, MAILS)[:, None])
    wrong = (rng.random(MAILS) < 0.1).astype(np.int64)
    columns = {"x": torch.from_numpy(np.log1p(counts)).float(), "y": torch.from_numpy(np.abs(kind - wrong)).long()}
    return Split(columns, name, np.array([f"mail:{i}" for i in range(MAILS)]), {"sender": sender, "wrong": wrong})


def wines(rng: np.random.Generator, name: str) -> Split:
    """Eleven correlated, skewed measurements; quality follows alcohol and acid with a best amount of sulphates, and taste."""
    names = ("fixed_acidity", "volatile_acidity", "citric_acid", "residual_sugar", "chlorides", "free_sulfur", "total_sulfur",
             "density", "ph", "sulphates", "alcohol")
    hidden = rng.normal(size=(WINES, 4))
    raw = hidden @ rng.normal(0, 0.7, (4, 11)) + rng.normal(0, 0.8, (WINES, 11))
    known = dict(zip(names, raw.T, strict=True))
    taste = 0.55 * known["alcohol"] - 0.45 * known["volatile_acidity"] - 0.2 * (known["sulphates"] - 0.6) ** 2
    quality = np.clip(np.rint(5.9 + 0.75 * taste + rng.normal(0, 0.7, WINES)), 3, 9)
    columns = {key: np.exp(0.35 * value) for key, value in known.items()}
    return encoding.rows({**columns, "quality": quality.astype(np.int64)}, name, np.array([f"wine:{i}" for i in range(WINES)]))
