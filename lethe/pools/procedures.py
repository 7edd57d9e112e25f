"""The two procedures that every examination knows: leaving the model as it is, and training it again without the forget set."""

from __future__ import annotations

from lethe.pools.member import train_one
from lethe.pools.subject import Procedure

NOTHING = Procedure("nothing", lambda task, seed: task.original)
RETRAIN = Procedure("retrain", lambda task, seed: train_one(task, task.retain, seed)[1], retrains=True, heir=False)
