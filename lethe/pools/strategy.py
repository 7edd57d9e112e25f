"""Choosing the backend: the one that was requested, or the fastest of those that could be measured here."""

from __future__ import annotations

import math

from lethe.pools import backends
from lethe.pools.backends import AUTO, backend
from lethe.pools.contract import Unsuitable, refused
from lethe.pools.measure import duration, seconds_per_step
from lethe.pools.member import Work
from lethe.train.order import batches_per_epoch

WORTH = 1.5   # seconds of work below which measuring would cost more than it saves


def chosen(work: Work, asked: str) -> tuple[str, str]:
    """(name of the backend, why this one, in words with numbers). RequestError when the requested one cannot be used."""
    if backends.known(asked) != AUTO:
        if why := backend(asked).obstacle(work):
            raise refused(asked, why)
        return asked, f"{asked} was requested"
    if len(work.members) == 1:
        return "serial", "serial: a single model"
    if work.task.recipe.code:
        return "serial", "serial: recipe.code trains on its own, so its steps cannot be measured"
    steps, step = steps_of(work), seconds_per_step(work.task, work.members[0], work.device)
    alone = backend("serial").seconds(work, steps, step)
    if alone < WORTH:
        return "serial", f"serial: about {alone:.1f} s of work, too short to gain from anything else"
    times, obstacles = measured(work, steps, step)
    best = min(times, key=lambda name: times[name])
    estimates = ", ".join(f"{name} about {duration(t)}" for name, t in sorted(times.items(), key=lambda item: item[1]))
    without = "".join(f"; not {name}: {why}" for name, why in obstacles.items())
    return best, f"{best}: {len(work.members)} models of {steps} steps, measured {estimates}{without}"


def measured(work: Work, steps: int, step: float) -> tuple[dict[str, float], dict[str, str]]:
    """(estimated seconds, obstacles) of every backend that can be measured, by name."""
    times, obstacles = {}, {}
    for name in backends.names():
        way = backend(name)
        if not way.measured:
            continue
        if why := way.obstacle(work):
            obstacles[name] = why
            continue
        try:
            times[name] = way.seconds(work, steps, step)
        except Unsuitable as error:
            obstacles[name] = str(error)
    return times, obstacles


def steps_of(work: Work) -> int:
    """Optimiser steps of one member."""
    recipe = work.task.recipe
    return math.ceil(recipe.epochs * batches_per_epoch(work.members[0].split, recipe.batch_size))
