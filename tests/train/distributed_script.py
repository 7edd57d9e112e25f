"""Started by torchrun: forget on a tiny task in several ways, and write the model that the first process has of each.

    distributed_script.py OUT KIND:CASE[:FOLDER] …      writes OUT/KIND-CASE[-resumed].safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path

import tiny
import torch
from torch import Tensor, nn

from lethe.core.modules import named_tensors
from lethe.core.outcome import Outcome
from lethe.core.split import Batch
from lethe.core.task import Task
from lethe.train.checkpoint import save_tensors
from lethe.train.loop import Loop, Modifiers, Settings, Term
from lethe.train.watchdog import Watchdog

STEPS = 16


def contrast(model: nn.Module, batch: Batch) -> Tensor:
    """Each example against the others of its batch, from logits: InfoNCE against the next one.  -> [n]"""
    z = torch.nn.functional.normalize(model(batch.x), dim=1)
    similar = z @ z.roll(1, 0).T / 0.5
    return torch.logsumexp(similar, 1) - similar.diagonal()


def forget(task: Task, kind: str, case: str, folder: Path | None, share: float = 0.1) -> Outcome:
    """NegGrad+ with odd batch sizes, clipping, a watchdog and what `case` adds."""
    modifiers = {
        "plain": Modifiers(),
        "coupled": Modifiers(),
        "modified": Modifiers(
            where={"name": "magnitude", "density": 0.5}, combine="surgery", perturb="sam",
            average={"name": "ema", "decay": 0.5},
        ),
        "lora": Modifiers(where={"name": "lora", "rank": 2}),
    }[case]
    accumulate = 2 if case in ("modified", "coupled") else 1
    settings = Settings(distribution=kind, checkpoint_seconds=0, accumulate=accumulate)
    loop = Loop(task, settings, modifiers, None if case == "lora" else Watchdog(loss=90, examples=32), folder)
    model = loop.start()
    terms = {
        "retain": Term(task.retain, contrast, coupled=True) if case == "coupled" else Term(task.retain, task.nll),
        "forget": Term(task.forget, lambda m, b: -task.nll(m, b), share, batch_size=3),   # 40 = 13·3 + 1: one is left
    }
    loop.minimise(model, terms, lr=1e-2, steps=STEPS, batch_size=31, weight_decay=0.01, clip=1.0,
                  penalty=lambda m, share: 1e-3 * sum(p.square().sum() for p in m.parameters()))
    return loop.finish(model)


def main() -> None:
    torch.set_num_threads(1)
    out, *works = sys.argv[1:]
    for work in works:
        kind, case, folder = [*work.split(":"), ""][:3]
        task = tiny.TASKS["lm" if case.startswith("lm") else "classification"]()
        outcome = forget(task, kind, case.removeprefix("lm_"), Path(folder) if folder else None)
        world = torch.distributed.get_world_size()
        if torch.distributed.get_rank() == 0:
            meta = {"notes": outcome.notes, "size": world}
            name = f"{kind}-{case}-resumed" if folder else f"{kind}-{case}"
            save_tensors(Path(out) / f"{name}.safetensors", dict(named_tensors(outcome.model)), meta)


if __name__ == "__main__":
    main()
