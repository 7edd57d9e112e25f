"""One audit whose metrics share one forward pass per (model, split), against a pass for every metric that reads one."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lethe.core.catalogue import load
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.judge.auditor import applicable, examine
from lethe.models.classification.task import Classification
from lethe.models.zoo.small_cnn import SmallCNN
from lethe.pools.subject import Subject
from speed.common import measure, save, timed
from speed.loop_overhead import digits

REFERENCES = 4
AUDITS = ("scores", "divergence", "threshold", "klom")


class Separate(Subject):
    """A subject that looks at the data again for every metric."""

    passes = 0

    def seen(self, split: Split) -> dict[str, Tensor]:
        self._seen.clear()
        Separate.passes += 1
        return super().seen(split)


class Shared(Subject):
    """A subject as the auditor uses it, counting its passes."""

    passes = 0

    def seen(self, split: Split) -> dict[str, Tensor]:
        Shared.passes += id(split) not in self._seen
        return super().seen(split)


def main() -> None:
    torch.set_num_threads(1)
    everything = digits()
    bounds = {"forget": (0, 200), "retain": (200, 1200), "holdout": (1200, 1797)}
    splits = {name: everything.subset(range(*ends), name) for name, ends in bounds.items()}
    torch.manual_seed(0)
    models: list[nn.Module] = [SmallCNN() for _ in range(REFERENCES + 2)]   # what they know does not change the cost
    task = Classification(models[0], splits, Recipe(), lambda seed: SmallCNN())
    records = [load("audits", name) for name in AUDITS]
    audits = [(r, r.config()) for r in records if not applicable(r, task, REFERENCES, "standard")]

    def audit(kind: type[Subject]) -> None:
        original, unlearned, *references = (
            kind(f"model {i}", copy.deepcopy(model).eval(), task) for i, model in enumerate(models)
        )
        examine(task, [unlearned], original, references, audits)

    for kind in (Shared, Separate):
        audit(kind)
    passes = {"shared": Shared.passes, "separate": Separate.passes}
    result = measure(
        "shared_audit", timed(lambda: audit(Shared)), timed(lambda: audit(Separate)), 3, at_least=1.5, passes=passes,
        what=f"audits {', '.join(r.name for r, _ in audits)} with one forward pass per model and split",
        against=f"one pass per metric that reads it ({passes['separate']} passes instead of {passes['shared']})",
    )
    save(result)


if __name__ == "__main__":
    main()
