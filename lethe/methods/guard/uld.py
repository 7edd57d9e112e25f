"""ULD, unlearning from logit difference: a small assistant learns what is to be forgotten and nothing else, and what it says is
subtracted from what the model says; the weights stay. Ji, Liu, Zhang, Liu, Kompella, Liu & Chang (2024), arXiv:2406.08607.

    z_v(x) = log p_0(v | x) − α · [v ∈ S(x)] · (log p_a(v | x) + log V)
    S(x) = {v : p_0(v | x) ≥ κ · max p_0(· | x)} ∪ {the ⌈κV⌉ likeliest v}
    L(φ) = E_{x∈F} ℓ̄(x; φ)  +  γ · E_{x∈R} 1/|y| · Σ_t KL(uniform ‖ p_a(· | x, y_<t))

F forget set, R retain set, p_0 the original, p_a the assistant: the first K blocks of the original with its final norm and head,
and low-rank adapters φ, V the number of tokens, ℓ̄ mean negative log-probability of the answer's tokens.
Needs:    forget, retain, original.     Updates: nothing of the model; the outcome is a guard, which holds the adapters.
Cost:     training of adapters on K blocks; when it answers, K more blocks over the whole text for every token.
Limits:   α = 0, or a uniform assistant, is the original. κ = 0: α is subtracted from every token.
Fails by: prompts that the assistant was never taught to be uniform on lose whatever it says there; paraphrases of forgotten
          questions that it does not recognise are answered in full. Whoever holds the weights takes it off (audit: `guard`), and
          the assistant, which is saved beside them, knows the forgotten data by heart.
Deviations: log-probabilities, and log V added, so that a uniform assistant changes nothing inside S or outside. The official code
          rules out all tokens outside S when it writes and leaves them as they are when it computes likelihoods; here the
          second, both times. Its training data have paraphrases and wrong answers beside the records; here the records alone.
          Uniformity is asked of the answers' tokens, not of prompts. The assistant is asked without a cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, NonNegative, Optimiser, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.language_guard import LanguageGuard, Said, right
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.errors import RequestError
from lethe.maths.answers import mean_over
from lethe.maths.losses import uniform_tokens
from lethe.train.inner import charge, within
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.where.lora import A, B, Lora, adapted_layers


@config
class ULD:
    """Options of ULD."""

    alpha: NonNegative = 0.8             # α, how much of the assistant is subtracted                       [official code]
    likely: Fraction = 0.01              # κ: of less likely tokens nothing is subtracted                   [official code]
    blocks: Count | None = None          # K, of the assistant; null: a quarter                           [official code: 8 of 32]
    rank: Count = 16                     # of its adapters                                                  [official code]
    gamma: NonNegative = 5.0             # γ, weight of uniformity on R                                     [official code]
    lr: Positive = 1e-3                  # AdamW, of the adapters                                           [official code]
    epochs: Positive = 10.0              # passes over F                                                    [official code]
    batch_size: Count = 16               # of each term                                                     [official code]
    optimiser: Optimiser = "adamw"       # update rule                                                      [official code]
    weight_decay: NonNegative = 0.01     # pull towards 0                                                   [official code]
    clip: Positive | None = None         # largest gradient norm; null: none [only with lr=0.01]            [ours: none]


def contrasted(original: Tensor, assistant: Tensor, alpha: float, likely: float) -> Tensor:
    """z of both models' logits.  [..., V], [..., V] -> [..., V]

    p_0 = (½, ⅜, ⅛), p_a = (¾, ⅛, ⅛), α = 1, κ = ½: S = {0, 1} and exp z = (½ / (9/4), ⅜ / ⅜, ⅛) = (2/9, 1, 1/8).
    """
    before, said = original.float().log_softmax(-1), assistant.float().log_softmax(-1)
    size = before.shape[-1]
    inside = before >= before.amax(-1, keepdim=True) + (math.log(likely) if likely else -math.inf)
    most = max(1, math.ceil(likely * size))
    inside |= before >= before.topk(most, -1).values[..., -1:]
    return before - alpha * torch.where(inside, said + math.log(size), 0.0)


def first_blocks(model: nn.Module, count: int) -> nn.Module:
    """A decoder of the first `count` blocks of `model`, with its norm and head; its tensors are the model's own."""
    shape: Any = deepcopy(cast(Any, model).config)
    text = shape.get_text_config(decoder=True)
    whole = text.num_hidden_layers
    for name, value in list(vars(text).items()):   # what a block is, block by block
        if isinstance(value, list) and len(value) == whole:
            setattr(text, name, value[:count])
    text.num_hidden_layers = count
    with torch.device("meta"):
        made: nn.Module = type(model)(shape)
    held = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    for name in [*(n for n, _ in made.named_parameters(remove_duplicate=False)), *(n for n, _ in made.named_buffers())]:
        owner, _, own = name.rpartition(".")
        setattr(made.get_submodule(owner), own, held[name])
    return made.eval()


class Contrasting(LanguageGuard):
    """Subtracts what an assistant says.

    a0, b0, a1, …   [r, in], [out, r] the assistant's adapters, on `layers` in this order
    """

    layers: list[str]
    blocks: int
    scale: float
    alpha: float
    likely: float

    def forward(self, input_ids: Tensor, asked: Tensor, **given: Any) -> Said:
        before: Tensor = self.model(input_ids=input_ids, use_cache=False).logits
        return Said(contrasted(before, self.assistant()(input_ids), self.alpha, self.likely).to(before.dtype))

    def generate(self, ids: Tensor, attention_mask: Tensor, generation_config: Any, logits_processor: list[Any], **given: Any
                 ) -> Tensor:
        ask, pads = self.assistant(), (attention_mask == 0).sum(1).tolist()

        def step(now: Tensor, logits: Tensor) -> Tensor:
            rows = [row[start:] for row, start in zip(now.tolist(), pads, strict=True)]
            said = ask(right(rows).to(now.device))[range(len(rows)), [len(row) - 1 for row in rows]]
            return contrasted(logits, said, self.alpha, self.likely).to(logits.dtype)

        steps = type(logits_processor)([step, *logits_processor])   # before what is drawn from them
        return super().generate(ids, attention_mask, generation_config, steps, **given)

    def assistant(self) -> Callable[[Tensor], Tensor]:
        """What gives its logits of tokens.  [n, T] -> [n, T, V]"""
        model: Any = first_blocks(self.model, self.blocks)
        for i, name in enumerate(self.layers):
            a, b = getattr(self, f"a{i}"), getattr(self, f"b{i}")

            def add(_: nn.Module, args: tuple[Any, ...], out: Tensor, a: Tensor = a, b: Tensor = b) -> Tensor:
                more: Tensor = self.scale * (args[0].to(a.dtype) @ a.T @ b.T)
                return out + more.to(out.dtype)

            model.get_submodule(name).register_forward_hook(add)

        def ask(ids: Tensor) -> Tensor:
            logits: Tensor = model(input_ids=ids, use_cache=False).logits
            return logits

        return ask


def assistant_of(cfg: ULD, task: LanguageTask, count: int) -> nn.Module:
    """The assistant before it learns; RequestError where the model has too few blocks or carries adapters itself."""
    if count > task.layer_count:
        raise RequestError(f"method.blocks = {count}, but the model has {task.layer_count}, so there is no such assistant; "
                           "nothing was started. Lower it.")
    if any(hasattr(module, "base_layer") for module in task.original.modules()):
        raise RequestError("uld builds its assistant from blocks of whole weights, and this model came as an adapter on its "
                           "base; nothing was started. Merge the adapter first (PeftModel.merge_and_unload), or choose eco.")
    return first_blocks(task.original, count)


@method(needs={"forget", "retain", "original"}, uses={"answer_lengths", "layer_count", "nll", "outputs"}, mechanism="guard")
def run(cfg: ULD, task: LanguageTask, loop: Loop) -> Outcome:
    count = cfg.blocks or max(1, task.layer_count // 4)
    own = within(loop, task, "assistant", loop.modifiers)
    adapters = Lora(rank=cfg.rank, alpha=2.0 * cfg.rank)
    assistant = own.start(assistant_of(cfg, task, count), where=adapters)

    def uniform(m: nn.Module, b: Batch) -> Tensor:
        return mean_over(uniform_tokens(task.outputs(m, b)), task.answer_lengths(b))

    terms = {"forget": Term(task.forget, task.nll), "retain": Term(task.retain, uniform, cfg.gamma)}
    own.minimise(assistant, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                 weight_decay=cfg.weight_decay, clip=cfg.clip)
    charge(loop, own)
    factors = own.tensors(assistant)
    layers = adapted_layers(factors)
    parts = {f"{part}{i}": factors[f"{layer}.{key}"] for i, layer in enumerate(layers) for part, key in (("a", A), ("b", B))}
    loop.note(f"an assistant of {count} of {task.layer_count} blocks answers beside the model, and what it says is subtracted; "
              "nothing was removed, and the assistant knows the forgotten data")
    return loop.finish(loop.start(), guard=lambda m: Contrasting(
        m, **parts, layers=layers, blocks=count, scale=adapters.alpha / adapters.rank, alpha=cfg.alpha, likely=cfg.likely))
