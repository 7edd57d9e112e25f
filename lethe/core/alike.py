"""Which examples are like the forget set: which leave with it, and which unseen ones it is compared with.

    leave   those of a class, of a range of targets, or of a group of which nothing is retained: retraining loses them, too
    beside  unseen ones of the classes (or the range) of the forget set which answer the request as it does (`age > 75`); where
            fewer than `ENOUGH` do, those nearest in inputs. A model that never saw a group can still be surer of it than of other
            data, so any other comparison measures the group and no memory; the nearest ones halve that error, no more.
            [table of 600, MLP, age > 75, mean of 3 seeds: AUC of retrained models 0.65 against all, 0.58 against the nearest of
            those of 75 and less, 0.51 against those above 75]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lethe.core.split import Split
from lethe.errors import RequestError

ENOUGH = 10      # unseen examples that answer the request: fewer are no comparison      [ours: AUC ± 0.2 at 10]
SAMPLE = 1000    # forgotten examples whose nearest are sought                           [ours]
PIECE = 2**24    # distances that are held together
RANGE = 3        # forgotten targets that can be a range: nothing retained lies between those of one or two by chance   [ours]


@dataclass(frozen=True, eq=False)
class Beside:
    """The unseen examples that a forget set is compared with.

    mask   [n] bool over holdout
    words  which they are, in words
    alike  whether a model that never saw either may be expected to treat both alike; not where the nearest stand in for a group
    """

    mask: np.ndarray
    words: str
    alike: bool = True


def class_labels(split: Split) -> Tensor | None:
    """The class numbers of a split, [n]; None where targets are no classes."""
    y = split.columns.get("y")
    return None if y is None or y.dim() != 1 or y.is_floating_point() else y


def real_targets(split: Split) -> Tensor | None:
    """The real targets of a split, of several each example's mean, [n]; None where targets are no such values."""
    y = split.columns.get("y")
    if y is None or not y.is_floating_point() or y.dim() > 2:
        return None
    return y if y.dim() == 1 else y.mean(1)


def of_classes_that_leave(forget: Split, retain: Split) -> bool:
    """Whether no retained example has a label of F, so that whole classes leave."""
    return class_labels(forget) is not None and bool(of_a_class_that_leaves(forget, forget, retain).all())


def of_a_range_that_leaves(forget: Split, retain: Split) -> bool:
    """Whether no retained example has a target between the least and the largest of F, so that a range of targets leaves."""
    return real_targets(forget) is not None and len(forget) >= RANGE and not bool(in_range(retain, forget).any())


def whole_classes(forget: Split, retain: Split, method: str) -> Tensor:
    """The labels of F, for a method that removes classes; RequestError where retained examples have one of them.  -> [c]"""
    gone: Tensor = torch.unique(forget.columns["y"])
    kept = int(torch.isin(retain.columns["y"], gone).sum())
    if kept:
        raise RequestError(f"{kept} retained examples have a forgotten label ({gone.tolist()}), and {method} removes whole "
                           "classes, so it would remove them as well; nothing was started. Choose a method for single "
                           "examples: scrub, neggrad_plus.")
    return gone


def of_a_class_that_leaves(split: Split, forget: Split, retain: Split) -> np.ndarray:
    """Which examples have a label that is in the forget set and not retained.  [n] bool"""
    asked, known, kept = class_labels(split), class_labels(forget), class_labels(retain)
    if asked is None or known is None or kept is None:
        return np.zeros(len(split), dtype=bool)
    gone: np.ndarray = torch.isin(asked, known[~torch.isin(known, kept)]).numpy()
    return gone


def leaving(split: Split, forget: Split | None, retain: Split) -> np.ndarray:
    """Which examples are of a class, a range of targets or a group that leaves: nothing of it is retained.  [n] bool

    A group: what answers the request, or what shares the value of a column that several forgotten examples have.
    forget  None where it is not known: then what has a class that is not retained
    """
    if forget is None:
        asked, kept = class_labels(split), class_labels(retain)
        return np.zeros(len(split), dtype=bool) if asked is None or kept is None else ~torch.isin(asked, kept).numpy()
    gone = of_a_class_that_leaves(split, forget, retain)
    if of_a_range_that_leaves(forget, retain):
        gone |= in_range(split, forget)
    for inside, held in _groups(split, forget, retain):
        if not held.any():
            gone |= inside
    return gone


def beside(forget: Split, holdout: Split) -> Beside:
    """The unseen examples that the forget set is compared with."""
    n, asked, known = len(holdout), class_labels(holdout), class_labels(forget)
    mask, words = np.ones(n, dtype=bool), "all {} holdout examples"
    if asked is not None and known is not None:
        mask, words = torch.isin(asked, known).numpy(), "the {} holdout examples of classes that occur in the forget set"
    elif real_targets(forget) is not None:
        mask, words = in_range(holdout, forget), "the {} holdout examples with targets in the range of the forget set's"
    answered = None if forget.rule is None else forget.rule.answered(holdout)
    if forget.rule is None or not mask.any():
        return Beside(mask, words.format(mask.sum()))
    same = mask if answered is None else mask & answered
    if answered is not None and same.sum() >= ENOUGH:
        return Beside(same, f"the {same.sum()} holdout examples that answer the request as the forgotten ones do")
    lacking = "holdout cannot be asked what the request asks" if answered is None else f"only {same.sum()} answer the request"
    near = nearest(forget, holdout, mask)
    if near is None:
        return Beside(mask, f"{words.format(mask.sum())} ({lacking}, and what is nearest cannot be told from inputs)")
    return Beside(near, f"the {near.sum()} holdout examples nearest to the forgotten ones in inputs ({lacking})", alike=False)


def in_range(split: Split, forget: Split) -> np.ndarray:
    """Which examples have a target between the forget set's least and largest.  [n] bool"""
    asked, known = real_targets(split), real_targets(forget)
    if asked is None or known is None:
        return np.zeros(len(split), dtype=bool)
    inside: np.ndarray = ((asked >= known.min()) & (asked <= known.max())).numpy()
    return inside


def nearest(forget: Split, holdout: Split, among: np.ndarray) -> np.ndarray | None:
    """Which of the holdout examples `among` are nearest to a forgotten one, of its class where there are classes; columns have
    unit variance.  [n] bool; None where inputs are no numbers.
    """
    rows = np.linspace(0, len(forget) - 1, min(SAMPLE, len(forget))).astype(int)
    places = np.flatnonzero(among)
    mine, theirs = (_inputs(part, at) for part, at in ((forget, rows), (holdout, places)))
    if mine is None or theirs is None or not len(places):
        return None
    scale = torch.cat([mine, theirs]).std(0)
    mine, theirs = (x / scale.where(scale > 0, 1.0) for x in (mine, theirs))
    own, others = class_labels(forget), class_labels(holdout)
    chosen = np.zeros(len(holdout), dtype=bool)
    for part in torch.arange(len(mine)).split(max(1, PIECE // len(theirs))):
        apart = torch.cdist(mine[part], theirs)
        if own is not None and others is not None:
            apart = apart.masked_fill(own[rows][part, None] != others[places], torch.inf)
        least, place = apart.min(1)
        chosen[places[place[least.isfinite()].numpy()]] = True
    return chosen


def _groups(split: Split, forget: Split, retain: Split) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of every group that the forget set may be: (which of `split` are of it [n], which retained ones [m])."""
    if forget.rule is not None:
        inside, kept = forget.rule.answered(split), forget.rule.answered(retain)
        if inside is not None and kept is not None:
            yield inside, kept
    for name in forget.meta.keys() & retain.meta.keys() & split.meta.keys():
        own = np.unique(np.asarray(forget.meta[name]).astype(str))
        if len(own) < len(forget):
            yield _have(split, name, own), _have(retain, name, own)


def _have(split: Split, name: str, wanted: np.ndarray) -> np.ndarray:
    """Which examples have one of these values in a column.  [n] bool"""
    found: np.ndarray = np.isin(np.asarray(split.meta[name]).astype(str), wanted)
    return found


def _inputs(split: Split, places: np.ndarray) -> Tensor | None:
    """The inputs at these positions as rows of numbers, [n, d]; None where they are none."""
    if not split.inputs:
        return None
    batch = split.batch(torch.from_numpy(places))
    return torch.cat([batch.columns[key].double().reshape(len(places), -1) for key in split.inputs], 1)
