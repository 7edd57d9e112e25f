"""TOFU's metrics of one model: Lethe's audits against a plain formulation of what OpenUnlearning evaluates.

    LETHE_DATA=… python -m speed.panel

Probability of the answer, of its paraphrase and of five wrong ones, truth ratio and ROUGE (forget, retain), extraction strength
(forget), Min-K (forget against holdout): the audits `tofu`, `extraction` and `mia_lm` with parity=open_unlearning, answers of up
to 200 new tokens. Asked are a Llama of 4 blocks of width 256 that has learnt forget and retain, and one that has learnt retain
alone, because what a model has to say decides what generation costs.

    plain   (locuslab/open-unlearning, read at a2550b5) a pass for each metric and each of the five wrong answers, 32 texts at a
            time in the order of the data, padded to the longest, with a mask; softmax of every position; one comparison for each
            suffix; greedy answers of 32 questions at a time, as long as the longest of them; ROUGE by the textbook table, words
            stemmed anew
    Lethe   a fresh `Panel` and `Subject` each time: nothing is left over from the last one. The model is asked as its panel's
            original: otherwise `mia_lm` would read forget and retain by one more model, for the attack on the update, which no
            metric of the plain way is

Kinder than the original: the loss of transformers is not computed beside the metric's own (they pass labels and drop it), ROUGE-1
is left out. Both ways start with the model and the task at hand and end with the same numbers, example by example.

seconds  CPU time of this process, in alternating pairs; wall time stands beside it
floor    CPU seconds of the network alone: each text that has to be scored once, in Lethe's batches, head included
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.catalogue import load
from lethe.core.modules import evaluating
from lethe.core.sequences import IGNORED, encode_prompts, left_padded
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.judge.panel import Panel
from lethe.maths.porter import stem
from lethe.maths.tofu import reference_common_subsequence, words
from lethe.models.lm.open import Language, language_model
from lethe.models.lm.small import TinyLlama, llama, train_tokenizer
from lethe.pools.subject import Subject
from lethe.train.loop import Loop
from lethe.train.settings import Settings
from speed.common import compared, data_root, save, spent

QUESTIONS, BATCH, NEW, SHARE, WRONG = 40, 32, 200, 0.4, 5   # of each set: two authors; the rest is OpenUnlearning's
REPEATS, EPOCHS = 2, 20
SIZES = TinyLlama(vocabulary=4096, width=256, inner=704, layers=4, heads=4)
TEMPLATE = "Question: {prompt}\nAnswer: {answer}"
OPTIONS: dict[str, dict[str, Any]] = {"tofu": {"new_tokens": NEW}, "extraction": {}, "mia_lm": {"share": SHARE}}
Found = dict[str, np.ndarray]


def opened() -> Language:
    """Two authors each to forget, to retain and unseen, and a model with random weights."""
    from lethe.data.records import read_rows

    rows = [{**row, "prompt": row["question"]} for row in read_rows(data_root() / "text" / "tofu.jsonl.gz")]
    tokenizer = train_tokenizer([f"{row['question']} {row['answer']}" for row in rows], SIZES.vocabulary)
    forget, retain, holdout = (rows[len(rows) - k * QUESTIONS :][:QUESTIONS] for k in (1, 2, 3))
    torch.manual_seed(0)
    recipe = Recipe(epochs=EPOCHS, lr=4e-3, batch_size=8, schedule="onecycle")
    return language_model(llama(SIZES, tokenizer), tokenizer, forget, retain, holdout, template=TEMPLATE, id="idx", recipe=recipe,
                          build=lambda seed: llama(SIZES, tokenizer))


def models(task: Language) -> dict[str, nn.Module]:
    """One that has learnt both sets, one that has learnt retain alone."""
    from lethe.core.split import concat

    found = {}
    for name, split in {"original": concat([task.forget, task.retain], "train"), "retrained": task.retain}.items():
        loop = Loop(task, Settings(seed=0))
        model = loop.start(task.build(0))
        task.train(model, split, task.recipe, loop)
        found[name] = loop.finish(model).model
    return found


# -- the two ways ------------------------------------------------------------------------------------------------------


def lethe(task: Language, model: nn.Module) -> Found:
    """The three audits of a model that was never seen before."""
    subject = Subject("original", model, task)
    panel = Panel(task, subject, [])
    values: dict[str, Any] = {}
    for name, options in OPTIONS.items():
        audit = load("audits", name)
        cfg = audit.config(**options, parity="open_unlearning")
        values |= {value.metric: value.per_sample for value in audit.measure(cfg, subject, panel)}
    return {key: np.asarray(values[key]) for key in (
        *(f"{metric}_{role}" for metric in ("probability", "rouge_l", "truth_ratio") for role in ("forget", "retain")),
        "paraphrase_probability_forget", "extraction_strength_forget", "min_k_auc")}


def plain(task: Language, model: nn.Module) -> Found:
    """The metrics one after the other."""
    found: Found = {}
    with evaluating(model):
        for role in ("forget", "retain"):
            split = task.splits[role]
            truth = losses(model, split)
            right = losses(model, told(task, split, split.meta["paraphrased_answer"]))
            wrong = [losses(model, told(task, split, [answers[k] for answers in split.meta["perturbed_answer"]]))
                     for k in range(WRONG)]
            ratio = np.exp(right - np.mean(wrong, 0))
            found |= {f"probability_{role}": np.exp(-truth), f"rouge_l_{role}": rouge(task, model, split),
                      f"truth_ratio_{role}": np.minimum(ratio, 1 / ratio) if role == "forget" else np.maximum(0, 1 - ratio)}
            if role == "forget":
                found["paraphrase_probability_forget"] = np.exp(-right)
        found["extraction_strength_forget"] = strength(model, task.forget)
        found["min_k_auc"], _ = lowest(model, task.forget), lowest(model, task.holdout)
    return found


def told(task: Language, split: Split, answers: Sequence[str]) -> Split:
    """The same questions with other answers."""
    return task.encode(list(split.column("prompt")), list(answers))


def collated(split: Split) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Inputs and labels of batches in the order of the data, as wide as their longest."""
    for index in torch.arange(len(split)).split(BATCH):
        length = split.columns["length"][index]
        width = int(length.max())
        mask = (torch.arange(width) < length.unsqueeze(1)).long()
        yield {"input_ids": split.columns["ids"][index, :width], "attention_mask": mask}, split.columns["labels"][index, :width]


def losses(model: Any, split: Split) -> np.ndarray:
    """Mean loss per token of each answer.  -> [n]"""
    parts = []
    for inputs, labels in collated(split):
        logits = model(**inputs).logits[:, :-1].contiguous().transpose(1, 2)
        each = F.cross_entropy(logits, labels[:, 1:].contiguous(), ignore_index=IGNORED, reduction="none")
        parts.append(each.sum(1) / (labels != IGNORED).sum(1))
    return torch.cat(parts).double().numpy()


def answers_of(model: Any, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """log p of every token of the vocabulary where an answer is predicted, and its tokens; without the end.  [T, V], [T]"""
    for inputs, labels in collated(split):
        logp = torch.log_softmax(model(**inputs).logits, -1)[:, :-1]
        for row, label in zip(logp, labels, strict=True):
            places = (label != IGNORED).nonzero()[:-1, 0]
            yield row[places - 1], label[places]


def strength(model: Any, split: Split) -> np.ndarray:
    """Extraction strength by trying suffixes from the longest on.  -> [n]"""
    found = []
    for logp, tokens in answers_of(model, split):
        predicted, k = logp.argmax(-1), 0
        for k in range(len(tokens)):
            if torch.equal(predicted[k:], tokens[k:]):
                break
        found.append(1 - k / len(tokens))
    return np.array(found)


def lowest(model: Any, split: Split) -> np.ndarray:
    """Mean of the least likely tokens.  -> [n]"""
    found = []
    for logp, tokens in answers_of(model, split):
        ordered = logp.gather(1, tokens.unsqueeze(1)).squeeze(1).double().sort().values
        found.append(float(ordered[: max(1, int(SHARE * len(tokens)))].mean()))
    return np.array(found)


def rouge(task: Language, model: Any, split: Split) -> np.ndarray:
    """ROUGE-L recall of greedy answers.  -> [n]"""
    found, tokenizer = [], task.tokenizer
    prompts = encode_prompts(list(split.column("prompt")), tokenizer, task.form)
    for start in range(0, len(prompts), BATCH):
        ids, mask = left_padded(prompts[start : start + BATCH], tokenizer.pad_token_id)
        made = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW, pad_token_id=tokenizer.eos_token_id)
        texts = tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)
        for said, truth in zip(texts, split.column("answer")[start : start + BATCH], strict=True):
            own, true = ([stem.__wrapped__(word) if len(word) > 3 else word for word in words(text)] for text in (said, truth))
            found.append(reference_common_subsequence(own, true) / len(true))
    return np.array(found)


def floor(task: Language, model: Any) -> None:
    """The network over everything that has to be scored, once."""
    with evaluating(model):
        for role in ("forget", "retain", "holdout"):
            split, others = task.splits[role], []
            if role != "holdout":
                rows = zip(split.meta["paraphrased_answer"], split.meta["perturbed_answer"], strict=True)
                others = [task.encode([p for p in split.column("prompt") for _ in range(1 + WRONG)],
                                      [answer for right, wrong in rows for answer in (right, *wrong)])]
            for part in (split, *others):
                for batch in part.sweep(256):
                    model.lm_head(model.model(input_ids=batch.ids, use_cache=False).last_hidden_state[batch.labels != IGNORED])


def kept(found: list[Found], ask: Callable[[], Found]) -> None:
    """What a way says, beside what it takes."""
    found.append(ask())


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m speed.panel")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    task = opened()
    small = Language(task.original, {name: split.subset(range(8), name) for name, split in task.splits.items()}, task.tokenizer,
                     form=task.form)
    for name, model in models(task).items():
        ways: dict[str, Any] = {"lethe": partial(lethe, task, model), "plain": partial(plain, task, model)}
        for ask in (lethe, plain):
            ask(small, model)   # what the first call of a process loads is no cost of either way
        said: dict[str, list[Found]] = {way: [] for way in ways}
        took: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for k in range(given.repeats):
            for way in list(ways)[:: 1 if k % 2 == 0 else -1]:
                took[way].append(spent(partial(kept, said[way], ways[way])))
        apart = {key: float(np.abs(said["lethe"][0][key] - value).max()) for key, value in said["plain"][0].items()}
        least = min(spent(partial(floor, task, model))["cpu"] for _ in range(2))
        for unit in ("cpu", "wall"):
            own, other = ([one[unit] for one in took[way]] for way in ("lethe", "plain"))
            save(compared(f"panel.{name}.{unit}", own, other, at_least=3.0 if unit == "cpu" else None, floor=least,
                          largest_difference=apart, what=f"TOFU's metrics of the {name} model, {unit} time",
                          against="a plain formulation of OpenUnlearning's evaluation"))


if __name__ == "__main__":
    main()
