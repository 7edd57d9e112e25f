"""CIR, collapse of irrelevant representations: unlearn without the directions that all texts share, so that neither other
knowledge is disturbed nor a few steps of fine-tuning lead back. Sondej & Yang (2025), arXiv:2509.11816; successor of MUDMAN.

    L_F(θ) = mean over blocks l and tokens t of  max(⟨m_l(x, t; θ), m_l(x, t; θ_0)⟩ / n_l², 0),   n_l = mean_t ‖m_l(x, t; θ_0)‖
    G = ∇L_F for a matrix W,   G ← (1 − VᵀV) · G · (1 − UᵀU),   θ ← θ − η·G/‖G‖
    L_R(θ) = mean_t ‖h(x, t; θ) − h(x, t; θ_0)‖ / mean_t ‖h(x, t; θ_0)‖,   θ ← θ − η_r·∇L_R

F forget text, R retain text, m_l what the MLP of block l adds to the residual stream, h the hidden state after the last of
these blocks, θ_0 the original. U: orthonormal basis of the mean and largest principal components of W's inputs at the tokens
of F; V: of the gradients of L_F at its outputs; both anew every `refresh` steps. ‖G‖ is taken over all matrices. G is a sum
over tokens of (gradient × input), so projecting it is projecting each.
Needs:    forget, retain, original.     Updates: the matrices of the MLPs up to the last of the blocks (`targets`).
Cost:     one forward/backward on F and one on R per step, as far as the last block; every `refresh` steps a pass over F.
Limits:   no components is ascent of the angle in steps of one length. As many as there are dimensions: nothing moves.
Fails by: matrices that are narrow beside the components (small models) and F whose own directions are the shared ones. Where
          gradients vanish (all angles 90° and more) a step of fixed length goes along noise: `budget` ends the run before.
Deviations: components are taken at the first step of every `refresh`, in a pass of its own, and not gathered while the weights
          move. The first token has no part in L_F, as there, but a gradient may reach it. The budget is of R's loss, the official
          code's of Wikitext's. Mixtures, whose experts are one tensor, are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.modules import hooked
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.errors import ModelError, RequestError
from lethe.maths.answers import after_the_first, counted, mean_over
from lethe.maths.subspace import dominant, without
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.combine import Apply, Ask, Gradients, Memory, Recalling, inner

MANY = 4096   # tokens that components are taken of                                            [ours]


@config
class CIR:
    """Options of CIR."""

    blocks: tuple[Natural, ...] = ()   # from l to before; none: 6 to 12 of 16 [tested in test_cir]  [official code]
    inputs: Natural = 24               # rows of U                                           [official code]
    outputs: Natural = 36              # rows of V                                           [official code]
    lr: Positive = 0.2                 # η, length of a step                                 [official code]
    retain_lr: NonNegative = 3e-4      # η_r, SGD on R                                       [official code]
    refresh: Count = 25                # steps with the same components                      [official code of MCU: 25]
    budget: NonNegative | None = 0.001   # ends at such a rise of R's loss; null: never [tested in test_cir]  [official code]
    steps: Count = 1000                # batches of each term, at most                       [official code: 200 passes]
    batch_size: Count = 32             # of each term                                        [official code: 12 to 32]
    targets: tuple[str, ...] = ("*gate_proj*", "*up_proj*", "*down_proj*")   # what moves [e.g. *down_proj*]  [official code]


def default_blocks(count: int) -> tuple[int, int]:
    """The blocks 6 to 12 of 16, at the same depth elsewhere. default_blocks(32) == (12, 24); default_blocks(3) == (1, 2)."""
    first = round(count * 6 / 16)
    return first, max(first + 1, round(count * 12 / 16))


def agreement(now: Tensor, before: Tensor, counts: Tensor) -> Tensor:
    """max(⟨m, m_0⟩/n², 0), n the mean length of m_0 over tokens; a mean over tokens.  2 × [n, T, d], [n, T] bool -> [n]

    agreement([[[2, 0], [−1, 0]]], [[[1, 0], [3, 0]]], all): n = 2; (max(2/4, 0) + max(−3/4, 0))/2 = 0.25.
    """
    now, before = now.float(), before.float()
    size = before.norm(dim=-1)[counts].mean().clamp(min=1e-30)
    tokens = (now * before).sum(-1).div(size.square()).clamp(min=0)
    return (tokens * counts).sum(1) / counts.sum(1)


@contextmanager
def caught(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Inside, what went into and came out of modules last."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def keeping(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def keep(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            found[name] = args[0], out
        return keep

    handles = [module.register_forward_hook(keeping(name)) for name, module in modules.items()]
    with hooked(*handles):
        yield found


def linear(model: nn.Module, weights: Sequence[str]) -> dict[str, nn.Module]:
    """The layers of these matrices; ModelError where one is no layer's own."""
    layers = {name: model.get_submodule(name.rpartition(".")[0]) for name in weights}
    for name, layer in layers.items():
        if not name.endswith(".weight") or model.get_parameter(name).dim() != 2:
            raise ModelError(f"cir takes components of what goes into and comes out of a layer, and {name} is not the matrix of "
                             f"one ({type(layer).__name__}); nothing was started. Name others in method.targets, or choose "
                             "mudman.")
    return layers


@dataclass(frozen=True)
class Collapse(Recalling):
    """combine: the forget step of one length without the components, then the retain step. Rate 1 of SGD."""

    cfg: CIR
    components: Callable[[], Memory]   # at the weights as they are: `first of W`, `last of W`, a basis for either dimension

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        memory, step = self.memory, int(self.memory.get("step", torch.tensor(0)))
        if step % self.cfg.refresh == 0:
            memory |= self.components()
        memory["step"] = torch.tensor(step + 1)
        apply(self._forget(gradients(["forget"]), memory))
        if "retain" in terms:
            apply([self.cfg.retain_lr * g for g in gradients(["retain"])])

    def _forget(self, found: Gradients, memory: Memory) -> Gradients:
        left = [without(without(g.float(), memory[f"last of {name}"]).T, memory[f"first of {name}"]).T
                if f"last of {name}" in memory else torch.zeros_like(g) for name, g in zip(self.params, found, strict=True)]
        length = inner(left, left).sqrt().clamp(min=1e-30)
        return [(self.cfg.lr * g / length).to(p.dtype) for g, p in zip(left, self.params.values(), strict=True)]


def gathered(cfg: CIR, loop: Loop, task: LanguageTask, model: nn.Module, layers: Mapping[str, nn.Module],
             push: Callable[[nn.Module, Batch], Tensor]) -> Memory:
    """Bases of what goes into the layers at the tokens of F, and of the gradients of `push` at what comes out."""
    seen: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in layers}
    with torch.enable_grad():
        for batch in loop.drawn(task.forget, cfg.batch_size, "cir"):
            counts = after_the_first(batch.length, batch.ids.shape[1])
            with caught(layers) as found, loop.autocast():
                loss = push(model, batch).float().sum()
            used = [name for name in layers if name in found]
            grads = torch.autograd.grad(loss, [found[name][1] for name in used], allow_unused=True)
            for name, grad in zip(used, grads, strict=True):
                if grad is not None:
                    seen[name][0].append(found[name][0].detach()[counts].float())
                    seen[name][1].append(grad[counts].float())
            if max((sum(map(len, into)) for into, _ in seen.values()), default=0) >= MANY:
                break
    memory: Memory = {}
    for name, (into, out) in seen.items():
        if into:
            rows = dominant(torch.cat(out), cfg.outputs), dominant(torch.cat(into), cfg.inputs)
            stored_as_in_out = type(layers[name]).__name__ == "Conv1D"
            memory[f"first of {name}"], memory[f"last of {name}"] = rows[::-1] if stored_as_in_out else rows
    return memory


@method(needs={"forget", "retain", "original"}, uses={"down_projections", "hidden_states", "layer_count", "nll"},
        mechanism="features")
def run(cfg: CIR, task: LanguageTask, loop: Loop) -> Outcome:
    if len(cfg.blocks) not in (0, 2) or list(cfg.blocks) != sorted(set(cfg.blocks)):
        raise RequestError(f"method.blocks = {cfg.blocks} names no first block and one behind the last; nothing was started. "
                           f"Write two numbers from 0 to {task.layer_count}, the smaller first, or leave it out.")
    first, end = cfg.blocks or default_blocks(task.layer_count)
    writers = task.down_projections(range(first, end))
    model = loop.start(where={"name": "names", "patterns": cfg.targets})
    layers = linear(model, list(loop.selected(model)))

    def written(m: nn.Module, b: Batch) -> Tensor:
        """What the MLPs add.  -> [n, T, blocks · d]"""
        with caught(linear(m, writers)) as found:
            task.hidden_states(m, b, end - 1)
        return torch.cat([found[name][1] for name in writers], -1)

    before = loop.reference("cir-forget", written, task.forget)

    def push(m: nn.Module, b: Batch) -> Tensor:
        now, then = written(m, b), before(b)[:, : b.ids.shape[1]]
        counts = after_the_first(b.length, b.ids.shape[1])
        pairs = zip(now.chunk(len(writers), -1), then.chunk(len(writers), -1), strict=True)
        return torch.stack([agreement(one, other, counts) for one, other in pairs]).mean(0)

    terms = {"forget": Term(task.forget, push)}
    if cfg.retain_lr:
        states = loop.reference("cir-retain", lambda m, b: task.hidden_states(m, b, end - 1), task.retain,
                                draws=cfg.steps * cfg.batch_size)

        def stay(m: nn.Module, b: Batch) -> Tensor:
            then = states(b)[:, : b.ids.shape[1]].float()
            counts = counted(b.length, b.ids.shape[1])
            apart = (task.hidden_states(m, b, end - 1).float() - then).square().sum(-1).clamp(min=1e-20).sqrt()
            usual: Tensor = then.norm(dim=-1)[counts].mean()
            return mean_over(apart, b.length) / usual

        terms["retain"] = Term(task.retain, stay)
    limit = None if cfg.budget is None else (1 + cfg.budget) * loop.mean_nll(model, task.retain, "cir")

    def spent(m: nn.Module) -> bool:
        if limit is None or loop.mean_nll(m, task.retain, "cir") <= limit:
            return False
        loop.note(f"ended after a pass: the loss on retained data is more than {cfg.budget} of it higher")
        return True

    collapse = Collapse(cfg, lambda: gathered(cfg, loop, task, model, layers, push))
    loop.minimise(model, terms, lr=1.0, steps=cfg.steps, batch_size=cfg.batch_size, optimiser="sgd", momentum=0.0,
                  combine=collapse, until=spent)
    return loop.finish(model)
