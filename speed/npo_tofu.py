"""NPO for one epoch on TOFU: Lethe's way against the plain way.     LETHE_DATA=… python -m speed.npo_tofu

Both start from the same Llama (4 blocks of width 256, 4.3 M parameters, random weights: speed does not depend on
them), forget forget05 (200 questions and answers) with equally many retained ones per step, take the same batches in
the same order and the same AdamW steps. Tokens: a byte-level BPE of 4,096, learnt from TOFU's text.

    plain   a second, frozen model in memory that is asked at every step; every sequence padded to the longest of TOFU
            (183 tokens; 67 in the mean); logits for every position; one backward pass for both terms
    Lethe   `lethe.methods.lm.npo` through the Loop: the original asked once, batches of similar length cut to their
            own longest, the head only on answer tokens

speed   CPU seconds of the unlearning, model and data at hand; each way in a process of its own with one thread, in
        alternating pairs. CPU time because it leaves out waiting for other processes; wall seconds stand beside it
memory  peak resident size of that process minus its resident size just before the original is built, when libraries
        and data are loaded: everything that the way needs, weights and optimiser included
bound   the ratio of floating-point operations in matrix products, counted over the real batches (`operations`): what
        the speed-up would be if every operation took the same time and everything else none
losses  the largest difference between the losses of both ways over all steps; float rounding, nothing else

Measured (2 cores shared with other work, one thread, torch 2.13 CPU, 3 pairs): CPU time 3.24 × [3.13, 3.25] against a
bound of 2.90 × (the plain way's softmax over all positions costs time that the bound does not count), memory 0.36 ×
[0.34, 0.38], losses of 13 steps equal within 8e-6. Wall time 2.90 × [2.46, 3.19], disturbed by the other work.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.split import Batch, Split
from lethe.train.order import Order
from speed.common import compared, data_root, save, spent

FORGET, BATCH, SEED = 200, 16, 0       # the last 200 rows are forget05; examples of each of forget and retain per step
BETA, ALPHA, LR, DECAY = 0.1, 1.0, 1e-4, 0.01
VOCABULARY, WIDTH, INNER, LAYERS, HEADS = 4096, 256, 704, 4, 4
REPEATS = 3


def prepare(folder: Path) -> None:
    """Tokenise TOFU once: the tokenizer and the columns, as files for the processes."""
    from safetensors.torch import save_file

    from lethe.core.sequences import Format
    from lethe.data.records import read_rows
    from lethe.data.text import tokenised
    from lethe.models.lm.small import train_tokenizer

    rows = read_rows(data_root() / "text" / "tofu.jsonl.gz")
    tokenizer = train_tokenizer([f"{row['question']} {row['answer']}" for row in rows], VOCABULARY)
    form = Format(prompt="question", template="Question: {prompt}\nAnswer: {answer}")
    split = tokenised(rows, tokenizer, form, "tofu")
    tokenizer.save_pretrained(folder)
    save_file({key: value.contiguous() for key, value in split.columns.items()}, folder / "tofu.safetensors")


def load(folder: Path) -> tuple[Any, Split, Split]:
    """Tokenizer, forget and retain."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    from lethe.core.sequences import padding

    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = Split(load_file(folder / "tofu.safetensors"), "tofu", padding=padding(tokenizer))
    count = len(whole)
    forget = whole.subset(range(count - FORGET, count), "forget")
    return tokenizer, forget, whole.subset(range(count - FORGET), "retain")


def fresh(tokenizer: Any) -> nn.Module:
    """The original: the same random weights in every process."""
    from lethe.models.lm.small import TinyLlama, llama

    torch.manual_seed(SEED)
    return llama(TinyLlama(VOCABULARY, WIDTH, INNER, LAYERS, HEADS), tokenizer)


def orders(forget: Split, retain: Split) -> tuple[int, Order, Order]:
    """Number of steps, and which examples each takes: what the Loop draws."""
    return -(-len(forget) // BATCH), Order(forget, BATCH, SEED, 0, "forget"), Order(retain, BATCH, SEED, 0, "retain")


# -- the two ways ------------------------------------------------------------------------------------------------------


def lethe(original: nn.Module, tokenizer: Any, forget: Split, retain: Split) -> dict[str, list[float]]:
    """NPO as Lethe does it. Losses of every step."""
    from lethe.core import catalogue
    from lethe.core.events import Event, Logged
    from lethe.models.lm.open import Language
    from lethe.train.loop import Loop, Settings

    npo = catalogue.load("methods", "npo")
    task = Language(original, {"forget": forget, "retain": retain}, tokenizer)
    del original
    lines: list[Logged] = []

    def hear(event: Event) -> None:
        if isinstance(event, Logged):
            lines.append(event)

    loop = Loop(task.granted(npo.needs), Settings(seed=SEED), listener=hear)
    cfg = npo.config(beta=BETA, alpha=ALPHA, lr=LR, epochs=1, warmup=0, batch_size=BATCH, weight_decay=DECAY)
    npo.run(cfg, task.granted(npo.needs), loop)
    return {name: [line.losses[name] for line in lines] for name in ("forget", "retain")}


def plain(original: nn.Module, tokenizer: Any, forget: Split, retain: Split) -> dict[str, list[float]]:
    """NPO as it is usually written. Losses of every step."""
    model, reference = original.train(), copy.deepcopy(original).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    steps, forget_order, retain_order = orders(forget, retain)
    losses: dict[str, list[float]] = {"forget": [], "retain": []}
    for step in range(steps):
        pair = [Batch({k: v[index] for k, v in split.columns.items()}, index)     # not cut: padded to the longest of all
                for split, index in ((forget, forget_order.draw(step)), (retain, retain_order.draw(step)))]
        with torch.no_grad():
            before = sequence_nll(reference, pair[0], tokenizer)
        npo = 2 / BETA * F.softplus(BETA * (before - sequence_nll(model, pair[0], tokenizer))).mean()
        kept = (sequence_nll(model, pair[1], tokenizer) / (pair[1].labels[:, 1:] >= 0).sum(1)).mean()
        optimiser.zero_grad()
        (npo + ALPHA * kept).backward()
        optimiser.step()
        losses["forget"].append(float(npo.detach()))
        losses["retain"].append(float(kept.detach()))
    return losses


def sequence_nll(model: nn.Module, batch: Batch, tokenizer: Any) -> Tensor:
    """Summed loss of each answer, from the logits of all positions.  -> [n]"""
    mask = torch.arange(batch.ids.shape[1]) < batch.length.unsqueeze(1)
    logits = model(input_ids=batch.ids, attention_mask=mask.long()).logits
    predicted, labels = logits[:, :-1].transpose(1, 2), batch.labels[:, 1:]
    return F.cross_entropy(predicted, labels, ignore_index=-100, reduction="none").sum(1)


WAYS = {"lethe": lethe, "plain": plain}


def alone(way: str, folder: Path) -> dict[str, Any]:
    """Run one way in this process."""
    from transformers import LlamaForCausalLM  # noqa: F401  imported before the measurement

    import lethe.methods.lm.npo
    import lethe.models.lm  # noqa: F401

    torch.set_num_threads(1)
    tokenizer, forget, retain = load(folder)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    held = [fresh(tokenizer)]
    losses: dict[str, list[float]] = {}
    took = spent(lambda: losses.update(WAYS[way](held.pop(), tokenizer, forget, retain)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {**took, "memory": peak - resident, "losses": losses}


# -- the bound ---------------------------------------------------------------------------------------------------------


def operations(forget: Split, retain: Split) -> dict[str, float]:
    """Floating-point operations of both ways, and of Lethe's with no padding at all.

    A pass over n sequences of width T: 2·P per token, P = LAYERS·(4·d² + 3·d·d_inner) weights of the blocks, and 4·T·d per
    token and block for attention; 2·d·V per position that the head sees. A backward pass counts twice a forward pass.
    plain: forward + backward on both, forward of the reference on forget, all at the longest width, head everywhere.
    Lethe: the same at the batch's width, head on answer tokens; the reference in batches of 256 sorted by length.
    """

    def body(width: Tensor) -> float:
        weights = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * INNER)
        return float((2 * weights * width + LAYERS * 4 * width**2 * WIDTH).sum())

    def head(positions: int) -> float:
        return 2.0 * WIDTH * VOCABULARY * positions

    longest = forget.columns["ids"].shape[1]
    steps, forget_order, retain_order = orders(forget, retain)
    found = {"plain": 0.0, "lethe": 0.0, "unpadded": 0.0}
    for split, order in ((forget, forget_order), (retain, retain_order)):
        for step in range(steps):
            index = order.draw(step)
            length = split.columns["length"][index].double()
            answers = int((split.columns["labels"][index] >= 0).sum())
            passes = 4 if split is forget else 3
            found["plain"] += passes * (body(torch.full_like(length, longest)) + head(len(index) * longest))
            found["lethe"] += 3 * (body(torch.full_like(length, float(length.max()))) + head(answers))
            found["unpadded"] += passes * (body(length) + head(answers))
    for batch in forget.sweep(256):
        found["lethe"] += body(torch.full((len(batch),), float(batch.ids.shape[1]), dtype=torch.float64))
        found["lethe"] += head(int((batch.labels >= 0).sum()))
    return found


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--alone", nargs=2, metavar=("WAY", "FOLDER"), help="run one way in this process")
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(alone(given.alone[0], Path(given.alone[1]))))
        return
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        _, forget, retain = load(Path(name))
        count = operations(forget, retain)
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for k in range(given.repeats):
            for way in list(WAYS)[:: 1 if k % 2 == 0 else -1]:
                command = [sys.executable, "-m", "speed.npo_tofu", "--alone", way, name]
                done = subprocess.run(command, capture_output=True, text=True, check=True,
                                      env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
                runs[way].append(json.loads(done.stdout))
                print(way, {k: v for k, v in runs[way][-1].items() if k != "losses"}, file=sys.stderr, flush=True)
            report(runs, count)   # after every pair, so that an interrupted benchmark leaves what it has


def report(runs: dict[str, list[dict[str, Any]]], count: dict[str, float]) -> None:
    """Print and save the results of the pairs so far."""

    def column(way: str, key: str) -> list[float]:
        return [run[key] for run in runs[way]]

    bound = count["plain"] / count["lethe"]
    pairs = [(a, b) for kind in ("forget", "retain")
             for a, b in zip(runs["lethe"][0]["losses"][kind], runs["plain"][0]["losses"][kind], strict=True)]
    detail = {
        "bound": bound, "bound_without_padding": count["plain"] / count["unpadded"], "operations": count,
        "steps": len(pairs) // 2, "largest_loss_difference": max(abs(a - b) for a, b in pairs),
        "largest_relative_loss_difference": max(abs(a - b) / abs(b) for a, b in pairs),
    }
    against = "the plain way (reference at every step, padded to the corpus, all logits)"
    speed = compared("npo_tofu.cpu", column("lethe", "cpu"), column("plain", "cpu"), at_least=1.8, against=against,
                     what="NPO on TOFU, CPU time", **detail)
    speed["share_of_bound"] = speed["ratio"] / bound
    save(
        speed,
        compared("npo_tofu.wall", column("lethe", "wall"), column("plain", "wall"), against=against,
                 what="NPO on TOFU, wall time"),
        compared("npo_tofu.memory", column("lethe", "memory"), column("plain", "memory"), at_most=0.7, against=against,
                 what="NPO on TOFU, peak memory"),
    )
    print(f"bound {bound:.2f} × by operations ({detail['bound_without_padding']:.2f} × without any padding), "
          f"{speed['share_of_bound']:.0%} of it reached; losses of {detail['steps']} steps differ by at most "
          f"{detail['largest_loss_difference']:.1e} ({detail['largest_relative_loss_difference']:.1e} relative)")


if __name__ == "__main__":
    main()
