"""The interface of image-to-image models: an encoder of a picture that is given in part, and a decoder that draws the whole."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from lethe.core.split import Batch
from lethe.core.task import Task


class ImageToImageTask(Task):
    """Columns: `image` [n, C, H, W] (bytes, or floats in [0, 1]) and `y` [n], the class of what it shows; `draw` adds `mask`
    [n, 1, H, W], true where the model is not given the picture.

    nll         mean squared error of what was hidden  -> [n]       outputs  pictures, completed  -> [n, C, H, W]
    divergence  mean squared difference there  -> [n]               features the codes, averaged over places  -> [n, d]
    relabel     noise with the mean and deviation of the pictures as what is to be drawn (column `target`)
    """

    family = "image_to_image"
    score_name = "closeness"
    provides: ClassVar[frozenset[str]] = frozenset({
        "nll", "batch_loss", "outputs", "divergence", "features", "relabel", "observe", "build", "weights",
        "codes", "encoder", "complete", "read", "read_features",
    })

    @property
    @abstractmethod
    def encoder(self) -> str:
        """Name of the encoder's module; the decoder is all the rest."""

    @abstractmethod
    def codes(self, model: nn.Module, batch: Batch) -> Sequence[Tensor]:
        """All that the encoder hands on of the given part of each picture, skip connections included.  -> several [n, …]"""

    @abstractmethod
    def complete(self, model: nn.Module, batch: Batch) -> Tensor:
        """The pictures with what was hidden drawn by the model, in [0, 1].  -> [n, C, H, W]"""

    @abstractmethod
    def read(self, samples: Tensor) -> Tensor:
        """What the user's classifier says of pictures: logits.  [n, C, H, W] -> [n, K]"""

    @abstractmethod
    def read_features(self, samples: Tensor) -> Tensor:
        """What enters the classifier's last linear layer.  [n, C, H, W] -> [n, d]"""
