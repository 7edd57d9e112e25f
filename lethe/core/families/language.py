"""The interface of language models: a decoder that answers prompts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.errors import RequestError


def asked_and_answered(split: Split, method: str) -> tuple[list[str], list[str]]:
    """Prompts and answers of a split as texts; RequestError where its records are plain text, whose prompts are empty."""
    if not any(map(str, split.meta.get("prompt", ()))):
        raise RequestError(f"{method} needs prompts with answers, but the records of {split.name} are plain text without "
                           "prompts, so nothing is asked; nothing was started. Choose npo, or provide prompts and answers.")
    return list(split.column("prompt")), list(split.column("answer"))


def prompted(method: str, *splits: str) -> Callable[[Any, LanguageTask], None]:
    """`check` of a method that reads the prompts of forget, and of further splits."""
    def check(cfg: Any, task: LanguageTask) -> None:
        for name in ("forget", *splits):
            asked_and_answered(task.splits[name], method)

    return check


def said(split: Split) -> list[str]:
    """What the records of a split say: their answers, or their texts."""
    return [str(text) for text in split.column("answer" if "answer" in split.meta else "text")]


class LanguageTask(Task):
    """Columns: `ids`, `labels` [n, T] (−100 on the prompt) and `length` [n]. A answer tokens, V vocabulary, L blocks, d width.

    nll         mean over the answer's tokens  -> [n]           outputs   logits of the answer's tokens  -> [n, A, V]
    divergence  KL, mean over the answer's tokens  -> [n]       features  mean hidden state of a block  -> [n, d]
    relabel     other answers to the same prompts               observe   also token_logp, correct, … [n, A]
    """

    family = "lm"
    score_name = "answer probability"
    generalises = False   # answers that the model was never told are likely by chance alone, before and after forgetting
    provides: ClassVar[frozenset[str]] = frozenset({
        "nll", "batch_loss", "outputs", "divergence", "features", "relabel", "observe", "build", "vmap", "weights", "likelihood",
        "sequence_logp", "token_logp", "answer_lengths", "hidden_states", "states", "read_out", "logits", "patched", "rewriting",
        "require_alike", "span_mask", "down_projections", "layer_count", "hidden_width", "encode", "fits", "generate",
        "begun", "drawn_texts", "guided", "tokenizer",
    })
    tokenizer: Any   # the model's own, of transformers

    @abstractmethod
    def sequence_logp(self, model: nn.Module, batch: Batch) -> Tensor:
        """Σ_t log p(y_t | x, y_<t): summed over the answer's tokens, the end token included.  -> [n]"""

    @abstractmethod
    def token_logp(self, model: nn.Module, batch: Batch) -> Tensor:
        """log p of each answer token in float32, zeros behind its end.  -> [n, A]"""

    @abstractmethod
    def answer_lengths(self, batch: Batch) -> Tensor:
        """Number of predicted answer tokens, at least 1.  -> [n]"""

    @abstractmethod
    def hidden_states(self, model: nn.Module, batch: Batch, layer: int) -> Tensor:
        """The residual stream after block `layer`; the forward pass stops there.  -> [n, T, d]"""

    @abstractmethod
    def states(self, model: nn.Module, batch: Batch) -> Tensor:
        """The residual stream after every block where the answer's tokens are predicted, in row order.  -> [L, K, d]"""

    @abstractmethod
    def read_out(self, model: nn.Module, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Per answer token what the model would predict if it ended at these states [K, d]: as in `observe`.  -> [n, A] each"""

    @abstractmethod
    def logits(self, model: nn.Module, hidden: Tensor) -> Tensor:
        """The prediction if the model ended at these states or vectors: final norm, then the head.  [..., d] -> [..., V]"""

    @abstractmethod
    def patched(self, batch: Batch, hidden: Tensor) -> Callable[[int, Tensor], Tensor]:
        """A rewrite for `rewriting`: states [L, K, d] replace those that predict the answer's tokens."""

    @abstractmethod
    def rewriting(
        self, model: nn.Module, rewrite: Callable[[int, Tensor], Tensor], layers: Sequence[int] | None = None
    ) -> AbstractContextManager[None]:
        """Inside, the output h [n, T, d] of every block (or of `layers`) is replaced by `rewrite(layer, h)`."""

    @abstractmethod
    def require_alike(self, model: nn.Module, other: nn.Module, what: str) -> None:
        """ModelError when the two models' hidden states or tokens mean different things."""

    @abstractmethod
    def span_mask(self, split: Split, column: str) -> Tensor:
        """Which answer tokens overlap the first occurrence of the text in a column (an entity).  -> [n, A] bool

        All tokens but the end where the column is missing or empty, or the answer does not contain its text.
        """

    @abstractmethod
    def down_projections(self, layers: Sequence[int]) -> list[str]:
        """Names of the weights through which the MLPs of these blocks write into the residual stream."""

    @property
    @abstractmethod
    def layer_count(self) -> int:
        """L, the number of transformer blocks."""

    @property
    @abstractmethod
    def hidden_width(self) -> int:
        """d, the width of the residual stream."""

    @abstractmethod
    def encode(self, prompts: Sequence[str], answers: Sequence[str], name: str = "encoded") -> Split:
        """Prompts with answers of any origin (paraphrased, perturbed, generated) as a split."""

    @abstractmethod
    def fits(self, prompts: Sequence[str], answers: Sequence[str]) -> bool:
        """Whether every prompt with its answer stays within `max_length` and the model's positions, so nothing is cut."""

    @abstractmethod
    def generate(self, model: nn.Module, prompts: Sequence[str], max_new_tokens: int = 64,
                 begun: Sequence[list[int]] | None = None) -> list[str]:
        """Greedy continuations of the prompts (written in the task's template), up to the end token.

        begun   the tokens with which each is known to begin, which are not generated again
        """

    @abstractmethod
    def begun(self, split: Split, correct: Tensor) -> list[list[int]]:
        """The tokens of each answer up to the first that is not the arg-max: with them the greedy answer to its prompt begins.

        correct   what `observe` says of the split  [n, A]
        """

    @abstractmethod
    def drawn_texts(
        self, model: nn.Module, prompts: Sequence[str], rng: torch.Generator, temperature: float = 1.0, max_new_tokens: int = 64,
        top_p: float = 1.0,
    ) -> list[str]:
        """As `generate`, every token drawn from softmax(logits/T), among the likeliest of mass `top_p`."""

    @abstractmethod
    def guided(
        self, model: nn.Module, other: nn.Module, prompts: Sequence[str], scale: float, likely: float, max_new_tokens: int = 64
    ) -> list[str]:
        """Greedy continuations by log p_model + scale · (log p_other − log p_model), among tokens that `other` gives at least
        `likely` times its largest probability."""
