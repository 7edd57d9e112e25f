"""Parameters whose name matches one of the patterns, e.g. `layer4.*`, `*.attn2.*`."""

from __future__ import annotations

import fnmatch

from torch import nn

from lethe.core.config import config
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.train.modifiers.where import Draws, Selection


@config
class Names:
    patterns: tuple[str, ...]        # shell-style patterns over parameter names
    without: tuple[str, ...] = ()    # patterns of those that stay all the same [e.g. head.*]

    def select(self, model: nn.Module, task: Task, loop: Draws) -> Selection:
        everything = task.trainable(model)
        chosen = {name: p for name, p in everything.items() if any(fnmatch.fnmatch(name, q) for q in self.patterns)
                  and not any(fnmatch.fnmatch(name, q) for q in self.without)}
        if not chosen:
            raise RequestError(f"where.patterns = {list(self.patterns)} match no parameter, so nothing could move. "
                               f"Names look like: {', '.join(list(everything)[:6])}.")
        return Selection(chosen)
