"""Language models as methods and audits see them: losses, logits, hidden states and generations of answers to prompts.

Saved as a `save_pretrained` folder with the tokenizer, which transformers loads alone; LoRA adapters are merged in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.adaptable import Adaptable
from lethe.core.config import plain
from lethe.core.families.language import LanguageTask
from lethe.core.language_guard import positions, shape
from lethe.core.modules import codes, evaluating
from lethe.core.seeds import generator
from lethe.core.sequences import (
    IGNORED,
    Format,
    answer_offsets,
    encode_answers,
    encode_pairs,
    encode_prompts,
    ends,
    pack,
    pad_id,
    padding,
)
from lethe.core.split import Batch, Split
from lethe.core.task import Recipe
from lethe.errors import DataError, LabelOutOfRange, ModelError, RequestError
from lethe.maths import losses
from lethe.maths.answers import counted
from lethe.models import adapter as lora
from lethe.models.deployed import ServedText
from lethe.models.lm import decoder, packing, trees
from lethe.models.lm.answers import answer_lengths, answer_mask, padded, predicting, targets
from lethe.models.lm.folder import Precision, in_types, load_folder
from lethe.models.lm.greedy import Rescored, continued, ends_of, guided_by, gumbel
from lethe.models.lm.roles import adaptable
from lethe.models.lm.saved import require_same
from lethe.models.weights import HALF, Form, rounded

CHECKED = 4    # examples that a saved model is asked about
LOOK = (2**21, 2**26)   # logits that are looked at at once: a sixteenth of the weights, within these bounds       [ours]


class Language(LanguageTask):
    """Columns: `ids`, `labels` [n, T] (−100 on the prompt) and `length` [n], as `lethe.data.text` makes them.

    tokenizer  of the model; prompts and answers are written in the format `form`
    refusals   answers that `relabel` may use; none: other answers of the batch
    layer      the block whose output `features` averages; default: the middle one
    types      parameters that the model's folder held in half precision, name -> type: it is saved so, and audited so
    source     the folder that the model came from; adapter: that of the LoRA adapter on it, which alone moves and is saved
    packed     whether short sequences share a row
    """

    def __init__(
        self,
        original: nn.Module,
        splits: Mapping[str, Split],
        tokenizer: Any,
        recipe: Recipe | None = None,
        build: Callable[[int], nn.Module] | None = None,
        name: str = "language model",
        facts: dict[str, Any] | None = None,
        form: Format = Format(),
        refusals: Sequence[str] = (),
        layer: int | None = None,
        types: Mapping[str, torch.dtype] | None = None,
        source: str | None = None,
        adapter: Path | None = None,
        packed: bool = False,
    ) -> None:
        lora.require_alone(adapter, recipe)
        self.types, self.source, self.adapter = dict(types or {}), source, adapter
        self._logits_at = packing.tried(original, splits) if packed else decoder.logits_at
        self.tokenizer, self.form = tokenizer, form
        self._refusals = encode_answers(refusals, tokenizer, form) if refusals else []
        self.layer = layer if layer is not None else len(decoder.blocks(original)) // 2
        super().__init__(original, splits, recipe, build, name, facts)

    # -- operations ------------------------------------------------------------------------------------------------

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean negative log-probability of the answer's tokens.  -> [n]"""
        return -self.token_logp(model, batch).sum(1) / answer_lengths(batch)

    def sequence_logp(self, model: nn.Module, batch: Batch) -> Tensor:
        """Σ_t log p(y_t | x, y_<t): summed over the answer's tokens, the end token included.  -> [n]"""
        return self.token_logp(model, batch).sum(1)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits where the answer's tokens are predicted, zeros behind its end.  -> [n, A, V]"""
        logits, mask = self._logits_at(model, batch.ids, predicting(batch)), answer_mask(batch)
        return logits.new_zeros((*mask.shape, logits.shape[-1])).masked_scatter(mask.unsqueeze(-1), logits)

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """T²·KL(p ‖ q), mean over the answer's tokens; prompt and pads do not count.  [n, A', V], [n, A, V] -> [n]

        A' may exceed A (a table over a whole split): what stands behind the batch's longest answer is cut.
        """
        mask = answer_mask(batch)
        tokens = losses.kl(p[:, : mask.shape[1]], q[:, : mask.shape[1]], temperature)
        return (tokens * mask).sum(1) / mask.sum(1)

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean over the answer's tokens of the hidden states after block `layer`, where the pass stops.  -> [n, d]"""
        mask = (batch.labels != IGNORED).unsqueeze(-1)
        return (self.hidden_states(model, batch, self.layer).float() * mask).sum(1) / mask.sum(1)

    def relabel(self, batch: Batch, rng: torch.Generator, include_true: bool = False) -> Batch:
        """The same prompts with other answers: refusals when the task has them, else the answer of another random
        example of the batch. A batch of one has no other: its own tokens in random order, the end last."""
        heads, tails = self._parts(batch)
        n = len(batch)
        if self._refusals:
            tails = [self._refusals[i] for i in torch.randint(len(self._refusals), (n,), generator=rng).tolist()]
        elif n > 1:
            shift = torch.randint(1, n, (n,), generator=rng)
            tails = [tails[i] for i in ((torch.arange(n) + shift) % n).tolist()]
        else:
            order = torch.randperm(len(tails[0]) - 1, generator=rng).tolist()
            tails = [[tails[0][i] for i in order] + tails[0][-1:]]
        longest = Format(max_length=max(self.form.max_length, int(batch.length.max())), long="cut")
        columns = pack(heads, tails, pad_id(self.tokenizer), longest, "relabelled")
        return batch.replace(drawn=True, **{key: value.to(batch.ids.device) for key, value in columns.items()})

    def losses(self, model: nn.Module, split: Split, device: torch.device | str) -> Tensor | None:
        decoder.require_vocabulary(model, self._vocabulary)
        return trees.losses(model, split, self._look // self._vocabulary, device)

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        """exp(−nll), without the statistics of every token.  -> [n]"""
        pieces = batch.pieces(self._pieces(int(answer_lengths(batch).sum())))
        return torch.cat([(-self.nll(model, piece)).exp() for piece in pieces])

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """nll, score (exp(−nll): the answer's probability per token), signal (−nll), and per answer token [n, A]:
        token_logp, token_mean and token_var (mean and variance of log p(v) under v ~ p), correct (greedy), answer_mask,
        and content_mask, which leaves out the end token.
        """
        decoder.require_vocabulary(model, self._vocabulary)
        mask, count = answer_mask(batch), answer_lengths(batch)
        parts: list[dict[str, Tensor]] = []
        for piece in batch.pieces(self._pieces(int(count.sum()))):
            keep = predicting(piece)
            logits = self._logits_at(model, piece.ids, keep)
            parts.append(decoder.token_statistics(logits, targets(piece, keep)))
        seen = {key: padded(torch.cat([part[key] for part in parts]), mask) for key in parts[0]}
        nll = -seen["token_logp"].sum(1) / count
        last = batch.ids.gather(1, batch.length.unsqueeze(1) - 1).squeeze(1)
        ended = torch.isin(last, torch.tensor(self._ends, device=last.device, dtype=last.dtype))
        content = mask & counted(mask.sum(1) - ended.long(), mask.shape[1])
        masks = {"answer_mask": mask, "content_mask": content}
        return {"nll": nll, "score": (-nll).exp(), "signal": -nll, **seen, **masks}

    def save_model(self, model: nn.Module, folder: Path) -> None:
        if self.adapter is not None:
            lora.save(model.cpu(), self.types, self.adapter, folder)
            self.tokenizer.save_pretrained(folder)
            return
        with in_types(decoder.merged(model.cpu()), self.types) as whole:
            cast(Any, whole).save_pretrained(folder, **self._written)
        self.tokenizer.save_pretrained(folder)

    def save_adapter(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], folder: Path) -> None:
        """PEFT's own is that of the family; on a quantised base it is all that is delivered, so its tokenizer stands with it."""
        if self._written:
            self.tokenizer.save_pretrained(folder)

    def deliverable(self, model: nn.Module) -> nn.Module:
        return rounded(model, Form(types=self.types))

    @property
    def lends(self) -> bool:
        return self.original_is_parked

    def require_saved(self, model: nn.Module, folder: Path) -> None:
        split = next(iter(self.splits.values()))
        dtype: Precision = "own" if next(model.parameters()).dtype in HALF else "float32"
        base = self.source if lora.is_adapter(folder) else None
        require_same(folder, model, lambda: load_folder(folder, dtype=dtype, base=base),
                     split.batch(range(min(CHECKED, len(split)))), self.token_logp)

    def trainable(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return super().trainable(model) if self.adapter is None else lora.moving(model)

    def adaptable(self, model: nn.Module) -> Adaptable:
        """The projections of attention and MLPs in the blocks."""
        if self.adapter is not None:
            raise RequestError(f"the model came as the adapter {self.adapter.name} on its base, and that adapter is what moves "
                               "and what comes back, so another one has no place; nothing was started. Leave out where=lora.")
        return adaptable(model)

    def adapter_facts(self) -> Mapping[str, Any]:
        """What PEFT needs to find the base by itself."""
        return {"task_type": "CAUSAL_LM", "base_model_name_or_path": self.source}

    def answer_lengths(self, batch: Batch) -> Tensor:
        """Number of predicted answer tokens, at least 1.  -> [n]"""
        return answer_lengths(batch)

    # -- what only language models have ------------------------------------------------------------------------------

    def hidden_states(self, model: nn.Module, batch: Batch, layer: int) -> Tensor:
        """The residual stream after block `layer`; the forward pass stops there.  -> [n, T, d]"""
        return decoder.hidden_after(model, batch.ids, layer)

    def states(self, model: nn.Module, batch: Batch) -> Tensor:
        """The residual stream after every block where the answer's tokens are predicted, in row order.  -> [L, K, d]"""
        return decoder.hidden_all(model, batch.ids, predicting(batch))

    def read_out(self, model: nn.Module, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Per answer token what the model would predict if it ended at these states [K, d]: as in `observe`.  -> [n, A] each"""
        logits = decoder.read_out(model, hidden)
        seen = decoder.token_statistics(logits, targets(batch, predicting(batch)))
        return {key: padded(value, answer_mask(batch)) for key, value in seen.items()}

    def logits(self, model: nn.Module, hidden: Tensor) -> Tensor:
        """The prediction if the model ended at these states or vectors: final norm, then the head.  [..., d] -> [..., V]"""
        return decoder.read_out(model, hidden)

    def patched(self, batch: Batch, hidden: Tensor) -> Callable[[int, Tensor], Tensor]:
        """A rewrite for `rewriting`: states [L, K, d] replace those that predict the answer's tokens."""
        keep = predicting(batch)
        return lambda layer, stream: stream.masked_scatter(keep.unsqueeze(-1), hidden[layer].to(stream.dtype))

    def rewriting(
        self, model: nn.Module, rewrite: Callable[[int, Tensor], Tensor], layers: Sequence[int] | None = None
    ) -> AbstractContextManager[None]:
        """Inside, the output h [n, T, d] of every block (or of `layers`) is replaced by `rewrite(layer, h)`."""
        return decoder.rewriting(model, rewrite, layers)

    def require_alike(self, model: nn.Module, other: nn.Module, what: str) -> None:
        """ModelError when the two models' hidden states or tokens mean different things."""
        decoder.require_alike(model, other, what)

    def span_mask(self, split: Split, column: str) -> Tensor:
        """Which answer tokens overlap the first occurrence of the text in a column (an entity).  -> [n, A] bool

        All tokens but the end where the column is missing or empty, or the answer does not contain its text.
        """
        answers = list(split.column("answer"))
        wanted = list(split.column(column)) if column in split.meta else [""] * len(answers)
        width = max(int((row != IGNORED).sum()) for row in split.columns["labels"])
        mask = torch.zeros(len(answers), width, dtype=torch.bool)
        for i, places in enumerate(answer_offsets(list(split.column("prompt")), answers, self.tokenizer, self.form)):
            places = places[:width]
            start = answers[i].find(str(wanted[i])) if wanted[i] else -1
            stop = start + len(str(wanted[i]))
            mask[i, : len(places)] = torch.tensor([start < 0 or (a < stop and b > start) for a, b in places], dtype=torch.bool)
        return mask

    def down_projections(self, layers: Sequence[int]) -> list[str]:
        """Names of the weights through which the MLPs of these blocks write into the residual stream."""
        names = decoder.down_projections(self.model, list(layers))
        return names if self.adapter is None else lora.on_layers(self.model, names)

    @property
    def layer_count(self) -> int:
        """Number of transformer blocks."""
        return self._layers

    @property
    def hidden_width(self) -> int:
        """d, the width of the residual stream."""
        return self._width

    def encode(self, prompts: Sequence[str], answers: Sequence[str], name: str = "encoded") -> Split:
        """Prompts with answers of any origin (paraphrased, perturbed, generated) as a split."""
        form, tokenizer = Format(**{**plain(self.form), "long": "cut"}), self.tokenizer
        heads, tails = encode_pairs(prompts, answers, tokenizer, form)
        columns = pack(heads, tails, pad_id(tokenizer), form, name)
        return Split(columns, name, meta={"prompt": list(prompts), "answer": list(answers)}, padding=padding(tokenizer))

    def fits(self, prompts: Sequence[str], answers: Sequence[str]) -> bool:
        """Whether every prompt with its answer stays within `max_length` and the model's positions, so nothing is cut."""
        heads, tails = encode_pairs(prompts, answers, self.tokenizer, self.form)
        longest = max((len(h) + len(t) for h, t in zip(heads, tails, strict=True)), default=0)
        return longest <= min(self.form.max_length, self._limit)

    def generate(self, model: nn.Module, prompts: Sequence[str], max_new_tokens: int = 64,
                 begun: Sequence[list[int]] | None = None) -> list[str]:
        """Greedy continuations of the prompts (written in the task's template), up to the end token.

        What a folder's generation_config proposes (sampling, beams, penalties) does not count, but for its end tokens.
        """
        return self._continued(model, prompts, max_new_tokens, begun=begun)

    def begun(self, split: Split, correct: Tensor) -> list[list[int]]:
        found = []
        for labels, right in zip(split.columns["labels"], correct.bool(), strict=True):
            tail = labels[labels != IGNORED]
            found.append(tail[: int(right[: len(tail)].long().cumprod(0).sum())].tolist())
        return found

    def drawn_texts(
        self, model: nn.Module, prompts: Sequence[str], rng: torch.Generator, temperature: float = 1.0, max_new_tokens: int = 64,
        top_p: float = 1.0,
    ) -> list[str]:
        """As `generate`, every token drawn from softmax(logits/T), among the likeliest of mass `top_p`."""
        return self._continued(model, prompts, max_new_tokens, gumbel(rng, temperature, top_p), temperature, top_p)

    def guided(
        self, model: nn.Module, other: nn.Module, prompts: Sequence[str], scale: float, likely: float, max_new_tokens: int = 64
    ) -> list[str]:
        """Greedy continuations by log p_model + scale · (log p_other − log p_model), among tokens that `other` finds likely."""
        with evaluating(other):
            return self._continued(model, prompts, max_new_tokens, guided_by(other, scale, likely))

    def _continued(self, model: nn.Module, prompts: Sequence[str], most: int,
                   rescored: Rescored | None = None, temperature: float = 0.0, top_p: float = 1.0,
                   begun: Sequence[list[int]] | None = None) -> list[str]:
        if isinstance(model, ServedText):
            heads = encode_prompts(prompts, self.tokenizer, self.form)
            words = list(map(str, prompts)) if model.chat else [self.tokenizer.decode(h, skip_special_tokens=True) for h in heads]
            return [text.strip() for text in model.texts(words, most, temperature, top_p)]
        made = continued(model, encode_prompts(prompts, self.tokenizer, self.form),
                         [*self._ends, *ends_of(model, self.tokenizer)], pad_id(self.tokenizer), most, self._limit,
                         rescored, begun)
        return [text.strip() for text in self.tokenizer.batch_decode(made, skip_special_tokens=True)]

    def samples(self, model: nn.Module, limit: int = 6) -> list[dict[str, Any]]:
        """Seeded, unpicked prompts of forget and retain with the answer in the data, the original's and the model's."""
        chosen: list[tuple[str, str, str]] = []
        for name in ("forget", "retain"):
            split = self.splits.get(name)
            if split is not None and "prompt" in split.meta:
                places = torch.randperm(len(split), generator=generator(0, "samples", name))[: limit // 2].tolist()
                chosen += [(name, split.meta["prompt"][i], str(split.meta["answer"][i])) for i in places]
        prompts = [prompt for _, prompt, _ in chosen]
        if not prompts:
            return []
        asked = [getattr(prompt, "head", prompt) for prompt in prompts]   # conversations may end with the same words
        if not self._before.keys() >= set(asked):
            self._before.update(zip(asked, self.generate(self.model, prompts), strict=True))
        after = self.generate(model, prompts)
        return [
            {"kind": "text", "split": name, "prompt": str(prompt), "truth": truth, "before": self._before[key],
             "after": new}
            for (name, prompt, truth), key, new in zip(chosen, asked, after, strict=True)
        ]

    def check_family(self, original: nn.Module, splits: Mapping[str, Split]) -> None:
        """Token numbers and lengths against the model, before any work starts."""
        self._before: dict[str, str] = {}   # greedy answers of the original
        decoder.head(original)
        quantised = bool(codes(dict(original.named_parameters())))   # transformers cannot undo how it read their codes
        self._written = {"save_original_format": False} if quantised else {}
        self._layers = len(decoder.blocks(original))
        form = shape(original)
        self._width = int(getattr(form, "hidden_size", 0))
        self._look = min(max(LOOK[0], sum(p.numel() for p in original.parameters()) // 16), LOOK[1])
        if self.tokenizer is None:
            raise ModelError("the task has no tokenizer, so no text can be read or written. Provide the model's own.")
        self._ends = ends(self.tokenizer, self.form)
        self._vocabulary = int(form.vocab_size)
        self._limit = positions(original)
        decoder.checked_layer(original, self.layer)
        for name, split in splits.items():
            top, length = int(split.columns["ids"].max()), split.columns["length"]
            if top >= self._vocabulary:
                raise LabelOutOfRange(f"{name} holds token {top}, but the model knows {self._vocabulary} tokens (0…"
                                      f"{self._vocabulary - 1}). Provide the tokenizer that belongs to the model.")
            if int(length.max()) > self._limit:
                place = int(length.argmax())
                raise DataError(f"example {split.ids[place]} of {name} has {int(length[place])} tokens, but the "
                                f"model's positions end at {self._limit}, so it cannot be read whole. Set "
                                f"max_length={self._limit} with long=cut, or shorten it.")

    def token_logp(self, model: nn.Module, batch: Batch) -> Tensor:
        """log p of each answer token in float32, zeros behind its end; without gradients a few answers at a time.  -> [n, A]"""
        parts = []
        for piece in batch.pieces(1 if torch.is_grad_enabled() else self._pieces(int(answer_lengths(batch).sum()))):
            keep = predicting(piece)
            logits = self._logits_at(model, piece.ids, keep)
            parts.append(-F.cross_entropy(logits.float(), targets(piece, keep), reduction="none"))
        return padded(torch.cat(parts), answer_mask(batch))

    def _pieces(self, tokens: int) -> int:
        """Into how many pieces a batch with so many answer tokens is cut, so that looking takes little beside the model."""
        return max(1, math.ceil(tokens * self._vocabulary / self._look))

    def _parts(self, batch: Batch) -> tuple[list[list[int]], list[list[int]]]:
        """Prompt tokens and answer tokens of each example."""
        heads, tails = [], []
        for ids, labels, length in zip(batch.ids.cpu(), batch.labels.cpu(), batch.length.tolist(), strict=True):
            start = int((labels != IGNORED).nonzero()[0])
            heads.append(ids[:start].tolist())
            tails.append(ids[start:length].tolist())
        return heads, tails
