"""GANs: any module with a generator and a discriminator. Trained by two losses in turn.

    discriminator  E softplus(−D(x)) + E softplus(D(G(z))) + r1/2 · E ‖∇_x D(x)‖²     generator  E softplus(−D(G(z)))
                   Goodfellow et al. 2014; r1: Mescheder et al. 2018, arXiv:1801.04406
    coverage of x  whether min_j ‖f(x) − f(G(z_j))‖ ≤ r_k(x), r_k the distance to the k-th nearest real example (Naeem et al.
                   2020, "Reliable Fidelity and Diversity Metrics", arXiv:2002.09797)
    signal         −min_j ‖f(x) − f(G(z_j))‖², GAN-Leaks (Chen et al. 2020, arXiv:1909.03935)

f features of the user's classifier, z_j the same `FAKES` draws for every model. What is forgotten is a class, or whatever the
classifier reads (a feature): the classes of the forget set that nothing retained shows are undesired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.engine import Engine, Term
from lethe.core.families.gan import GanTask, Player
from lethe.core.modules import evaluating
from lethe.core.seeds import derive, generator
from lethe.core.split import Batch, Split, concat, pixels, require_columns
from lethe.core.task import Recipe, recipe_options
from lethe.errors import ModelError, OutputShape
from lethe.models.answer import Returns, logits_of
from lethe.models.gallery import png
from lethe.models.reader import Reader
from lethe.models.weights import Form, InItsForm

FAKES = 1000      # samples that coverage and membership look at                              [ours]
NEAREST = 5       # k of the coverage                                                         [Naeem et al. 2020]
REAL = 2000       # real examples among which the k-th nearest is sought, a seeded sample     [ours]
NAMES: dict[Player, tuple[str, ...]] = {"generator": ("generator", "G", "netG", "gen"),
                                        "discriminator": ("discriminator", "D", "netD", "critic", "disc")}


class GAN(InItsForm, GanTask):
    """Columns: `x` [n, …] (bytes, or floats in the generator's range) and `y` [n] class numbers.

    reader   the user's classifier      parts  name of each player's module, where it is none of the usual ones
    tanh     whether the networks see pictures in [−1, 1], while `x` holds them in [0, 1] or bytes
    returns  what the discriminator ends in; a sigmoid at its end is seen
    r1       weight of the penalty on the discriminator's slope at real examples
    """

    distinct = False

    def __init__(
        self,
        original: nn.Module,
        splits: Mapping[str, Split],
        reader: Reader,
        recipe: Recipe | None = None,
        build: Callable[[int], nn.Module] | None = None,
        name: str = "gan",
        facts: dict[str, Any] | None = None,
        parts: Mapping[Player, str] | None = None,
        tanh: bool = True,
        returns: Returns = "logits",
        form: Form | None = None,
        r1: float = 0.0,
    ) -> None:
        self.reader, self.tanh, self.form, self.r1 = reader, tanh, form or Form(), r1
        self._parts: dict[Player, str] = {player: (parts or {}).get(player) or _found(original, player) for player in NAMES}
        last = list(_module(original, self._parts["discriminator"]).modules())[-1]
        self._returns: Returns = "probabilities" if isinstance(last, nn.Sigmoid) else returns
        self._noise = _noise(_module(original, self._parts["generator"]))
        super().__init__(original, splits, recipe, build, name, facts)

    # -- the two players -----------------------------------------------------------------------------------------------

    def latents(self, count: int, seed: int = 0) -> Tensor:
        """Standard normal noise that a seed names.  -> [count, d]"""
        return torch.randn(count, *self._noise, generator=generator(seed, "latents"))

    def draw(self, batch: Batch, rng: torch.Generator, train: bool) -> Batch:
        z = torch.randn(len(batch), *self._noise, generator=rng)
        return batch.replace(drawn=True, z=z.to(batch.x.device))

    def imagine(self, model: nn.Module, z: Tensor) -> Tensor:
        """Samples as real data stand in `x`, in floats.  [n, d] -> [n, …]"""
        drawn: Tensor = _module(model, self._parts["generator"])(z)
        return ((drawn + 1) / 2 if self.tanh else drawn).reshape(len(z), *self._shape)

    def discriminate(self, model: nn.Module, samples: Tensor) -> Tensor:
        """The discriminator's logit, higher for real.  [n, …] -> [n]"""
        return self._logit(model, self._seen(samples))

    def _seen(self, samples: Tensor) -> Tensor:
        x = pixels(samples) * 2 - 1 if self.tanh else pixels(samples)
        return x.flatten(1) if self._flat else x

    def _logit(self, model: nn.Module, seen: Tensor) -> Tensor:
        found = _module(model, self._parts["discriminator"])(seen).reshape(len(seen), -1)
        return (logits_of(found) if self._returns == "probabilities" else found.float()).mean(1)

    def generator_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """softplus(−D(G(z))).  -> [n]"""
        return F.softplus(-self.discriminate(model, self.imagine(model, batch.z)))

    def discriminator_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """softplus(−D(x)) + softplus(D(G(z))) + r1/2 · ‖∇_x D(x)‖².  -> [n]"""
        with torch.no_grad():
            drawn = self.imagine(model, batch.z)
        real = self._seen(batch.x).requires_grad_(bool(self.r1))
        logit = self._logit(model, real)
        loss = F.softplus(-logit) + F.softplus(self.discriminate(model, drawn))
        if not self.r1:
            return loss
        (slope,) = torch.autograd.grad(logit.sum(), real, create_graph=True)
        return loss + self.r1 / 2 * slope.square().flatten(1).sum(1)

    def players(self, model: nn.Module) -> dict[Player, frozenset[str]]:
        """Names of the parameters of each player."""
        return {player: frozenset(name for name, _ in model.named_parameters() if name.startswith(f"{part}."))
                for player, part in self._parts.items()}

    def train(self, model: nn.Module, split: Split, recipe: Recipe, loop: Engine) -> nn.Module:
        """Both players in turn, a step each, by the recipe."""
        if recipe.code:
            return super().train(model, split, recipe, loop)
        own = self.players(model)
        terms = {"discriminator": Term(split, self.discriminator_loss, moves=own["discriminator"]),
                 "generator": Term(split, self.generator_loss, moves=own["generator"])}
        return loop.minimise(model, terms, combine="alternate", **recipe_options(recipe))

    # -- what judges see -------------------------------------------------------------------------------------------------

    def read(self, samples: Tensor) -> Tensor:
        """Logits of the user's classifier.  [n, …] -> [n, K]"""
        return self.reader.read(samples)[0]

    def read_features(self, samples: Tensor) -> Tensor:
        """What enters the classifier's last linear layer.  [n, …] -> [n, d]"""
        return self.reader.read(samples)[1]

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """score (coverage), nll (squared distance to the nearest of `FAKES` samples), signal = −nll."""
        with torch.no_grad():
            fakes = self.read_features(self.imagine(model, self.latents(FAKES).to(batch.x.device)))
            mine = self.read_features(pixels(batch.x))
            gap = torch.cdist(mine, fakes).amin(1)
            limit = torch.cdist(mine, self._real.to(mine)).topk(min(NEAREST + 1, len(self._real)), largest=False).values[:, -1]
        return {"score": (gap <= limit).float(), "nll": gap.square(), "signal": -gap.square()}

    def has(self, what: str) -> bool:
        """Besides splits, original and recipe: "undesired", classes that go as a whole."""
        return bool(self.undesired) if what == "undesired" else super().has(what)

    def samples(self, model: nn.Module, limit: int = 6) -> list[dict[str, Any]]:
        """Seeded, unpicked samples of the original and of `model` from the same noise."""
        if len(self._shape) not in (2, 3):
            return []
        z, shown = self.latents(24, derive(0, "gallery")), []
        for row in z.split(12):
            drawn = []
            for one in (self.model, model):
                with evaluating(one):
                    found = self.imagine(one, row.to(next(one.parameters()).device))
                drawn.append(png(found.reshape(len(row), -1, *self._shape[-2:]) * 2 - 1))
            shown.append({"kind": "image", "caption": "samples of the same noise", "before": drawn[0], "after": drawn[1]})
        return shown[: max(1, limit)]

    def about(self) -> dict[str, Any]:
        return {str(player): name for player, name in self._parts.items()}

    def check_family(self, original: nn.Module, splits: Mapping[str, Split]) -> None:
        """Columns, shapes, and which classes are to go, before any work starts."""
        for name, split in splits.items():
            require_columns(name, split, ("x", "y"), "a GAN needs the real examples x and y, what each shows, so that the "
                            "classifier's answers mean something.")
        first = next(iter(splits.values()))
        self._shape = tuple(first.shape("x")[1:])
        kept = set(splits["retain"].columns["y"].tolist()) if "retain" in splits else set()
        gone = set(splits["forget"].columns["y"].tolist()) if "forget" in splits else set()
        self.undesired = tuple(sorted(gone - kept))
        some = first.batch([0, min(1, len(first) - 1)]).to(next(original.parameters()).device)
        self._require_fit(original, some)
        self.reader.require_classes(splits, pixels(some.x), "sample")
        train = [splits[key] for key in ("forget", "retain") if key in splits] or [first]
        whole = concat(train, "train")
        order = torch.randperm(len(whole), generator=generator(0, "real"))[:REAL]
        self._real = self.read_features(pixels(whole.batch(order).x))

    def _require_fit(self, original: nn.Module, some: Batch) -> None:
        """OutputShape unless generator, data, discriminator and classifier speak of samples of one size."""
        with evaluating(original):
            drawn = _module(original, self._parts["generator"])(self.latents(len(some)).to(some.x.device))
            if drawn[0].numel() != some.x[0].numel():
                raise OutputShape(f"the generator draws {tuple(drawn.shape[1:])} and real examples are {self._shape}, so the "
                                  "discriminator could tell them by their size; nothing was started. Bring the data to the size "
                                  "of the samples.")
            self._flat = drawn.dim() == 2
            found = self.discriminate(original, some.x)
        if not torch.isfinite(found).all() or found.shape != (len(some),):
            raise ModelError(f"the discriminator returns {tuple(found.shape)} with values that are no numbers for {len(some)} "
                             "real examples; nothing was started. Check its weights.")


def _found(model: nn.Module, player: Player) -> str:
    """The name of a player's module, by the usual ones."""
    named = [name for name in NAMES[player] if isinstance(getattr(model, name, None), nn.Module)]
    if not named:
        lacks = ("it can draw and nothing can teach it: every method here plays the two against each other" if player ==
                 "discriminator" else "nothing can be drawn")
        raise ModelError(f"{type(model).__name__} has no {player} (none of {', '.join(NAMES[player])}), so {lacks}; nothing was "
                         f"started. Provide the {player} that it was trained with, or say its name: model.{player}.")
    return named[0]


def _module(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name)


def _noise(drawer: nn.Module) -> tuple[int, ...]:
    """The shape of the noise of one sample: that of the first layer with weights."""
    for module in drawer.modules():
        if isinstance(module, nn.Linear):
            return (module.in_features,)
        if isinstance(module, nn.ConvTranspose2d):
            return (module.in_channels, 1, 1)
        if isinstance(module, nn.Conv2d):
            return (module.in_channels, 1, 1)
    raise ModelError(f"the generator {type(drawer).__name__} has no linear or convolution layer, so the shape of its noise is "
                     "not known; nothing was started.")
