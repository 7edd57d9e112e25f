"""The interface of dual encoders: pictures and texts become vectors of one space, trained by contrast (CLIP)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from lethe.core.split import Batch
from lethe.core.task import Task


class DualEncoderTask(Task):
    """Columns: `image` [n, C, H, W] (bytes, or floats in [0, 1]), `tokens` [n, L] of the caption, `y` [n] class numbers.

    batch_loss  symmetric contrast of the batch's pairs: coupled  -> [n]     outputs   zero-shot logits  -> [n, K]
    divergence  KL of zero-shot distributions  -> [n]        features  the picture's vector, of length 1  -> [n, d]
    observe     also similarity [n], logits [n, K], margin [n], y [n]

    There is no loss of an example alone. Class k is what its prompts say: zero-shot logits are exp(scale) times the cosines of a
    picture with the K mean vectors of the classes' prompts.
    """

    family = "dual_encoder"
    score_name = "zero-shot accuracy"
    coupled = True
    provides: ClassVar[frozenset[str]] = frozenset({
        "batch_loss", "outputs", "divergence", "features", "observe", "build", "weights", "labels",
        "similarity", "classes", "templates", "outside", "class_vectors", "text_vectors", "token_ids", "tower_weights",
    })
    classes: tuple[str, ...]     # names of the K classes
    templates: tuple[str, ...]   # prompts of a class, with {} for its name
    outside: tuple[str, ...]     # prompts that no method sees: for audits

    @abstractmethod
    def similarity(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cosine of each picture with its own caption.  -> [n]"""

    @abstractmethod
    def class_vectors(self, model: nn.Module, templates: Sequence[str] | None = None) -> Tensor:
        """The mean vector of each class's prompts, of length 1; templates: other prompts than the task's.  -> [K, d]"""

    @abstractmethod
    def text_vectors(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """Vectors of texts, of length 1.  [n, L] -> [n, d]"""

    @abstractmethod
    def token_ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids, cut or padded to one length.  -> [n, L]"""

    @abstractmethod
    def tower_weights(self, model: nn.Module) -> Mapping[str, Sequence[str]]:
        """Weight matrices and kernels by tower, "image" and "text": no embeddings, norms, biases or the scale."""
