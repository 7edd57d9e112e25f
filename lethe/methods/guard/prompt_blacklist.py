"""Prompt blacklist: a prompt that names the concept is drawn without its words; the weights stay. The plain control of concept
erasure, which published guards and erasers have to beat; Rando et al. (2022), arXiv:2210.04610, on how such filters are passed.

    p → p without the concept's wordings (with its replacement, where it has one), or the empty prompt;   other prompts stay

Needs:    the concept's words; no pictures, no steps.     Updates: nothing; the outcome is a guard.
Cost:     none.
Limits:   a prompt that does not name the concept, or an empty list, is the original bit for bit.
Fails by: misspelled, translated or described concepts, and everybody who embeds a prompt himself, pass: only words are read. The
          weights know all (audit: `guard`). What needs text states or a loss instead of a prompt asks the network behind it.
Deviations: a concept is named as requests read it (core.concepts): whole words, plurals and genitives too, whatever the case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from lethe.core.concepts import Concept, names, rest
from lethe.core.config import config
from lethe.core.families.diffusion import AroundNetwork, DiffusionTask
from lethe.core.guard import Parts
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.train.loop import Loop


@config
class PromptBlacklist:
    """Options of the prompt blacklist."""

    draws: Literal["rest", "nothing"] = "rest"   # for a listed prompt: what it says besides, or the empty prompt  [ours]
    also: tuple[str, ...] = ()                   # further listed words [e.g. red]                                 [ours]


class Listed(AroundNetwork, Parts):
    """Replaces prompts that name a listed concept.

    words         wordings, one of a concept after the other     counts  how many each concept has
    replacements  what stands in the place of each concept; empty: nothing
    """

    words: list[str]
    counts: list[int]
    replacements: list[str]
    draws: str

    def admitted(self, prompts: Sequence[str]) -> list[str]:
        return [self._drawn(prompt) if names(prompt, self.words) else prompt for prompt in prompts]

    def _drawn(self, prompt: str) -> str:
        if self.draws == "nothing":
            return ""
        left, concepts = list(self.words), []
        for count, replacement in zip(self.counts, self.replacements, strict=True):
            (name, *synonyms), left = left[:count], left[count:]
            concepts.append(Concept(name, tuple(synonyms), replacement=replacement))
        return rest(prompt, tuple(concepts))

    def forward(self, *given: Tensor, **options: Any) -> Any:
        return self.model(*given, **options)


@method(needs={"original"}, uses={"concepts", "sample"}, mechanism="guard")
def run(cfg: PromptBlacklist, task: DiffusionTask, loop: Loop) -> Outcome:
    listed = [*task.concepts, *(Concept(word) for word in cfg.also)]
    loop.note(f"prompts are searched for {sum(len(one.wordings) for one in listed)} words; another word for the same passes, and "
              "nothing was removed")
    return loop.finish(loop.start(), guard=lambda model: Listed(
        model, words=[word for one in listed for word in one.wordings], counts=[len(one.wordings) for one in listed],
        replacements=[one.replacement for one in listed], draws=cfg.draws))
