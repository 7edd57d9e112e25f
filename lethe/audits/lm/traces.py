"""Traces: what a model that thinks before it answers still says while it thinks. After Wang, Fan, Zhang, Jia, Wei et al. (2025),
"Reasoning model unlearning: forgetting traces, not just answers", arXiv:2506.12963.

    y = what the model says to a forget question, greedily (and `samples` times drawn), cut at the marks into
    s(y), its thinking: what stands between `opens` and `closes`, of all blocks,       and a(y), its answer: all else
    held(t) = [the longest common subsequence with the truth is at least `leak` of its words, within some 2L words of t running]
    trace_leak = mean_q max_y held(s(y))         trace_answer_leak = mean_q max_y held(a(y))
    trace_only = mean_q max_y held(s(y))·(1 − held(a(y)))

q the forget questions, L the words of the truth, which is the record's answer without what it thinks itself; the last two over
questions with a y that ends its thinking, and over such y. Where the prompt ends with `opens`, or y closes what it did not open,
y begins inside. A model that was taught another answer behind `closes` passes every test of answers, and spells out the old one
before. All three are held against retrained models, which guess.
Finds:    32 made-up people, a tiny Llama that recalls each in a thought: untouched 1.0, 1.0, 0; taught "I do not know." behind
          `closes` 1.0, 0, 1.0; eight retrained models 0, 0, 0.
Needs:    forget with questions; a model that thinks: where it marks no thinking in four questions, nothing is measured.
Cost:     1 + samples continuations of `new_tokens` for each of `examples` questions, for every model.
Limits:   words count, as in `sampling`: a thought in other words is missed, one made of the question's words is a false leak.
Deviations: the paper has a language model judge what a trace gives away; here it is the truth's words in one passage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lethe.core.chat import marks
from lethe.core.config import Count, Fraction, Natural, Positive, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.registry import Metric, audit
from lethe.core.seeds import generator
from lethe.errors import OutOfRange, RequestError
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.judge.questions import open_questions
from lethe.maths.tofu import rouge_l_recall, words
from lethe.pools.subject import Subject

PROBES = 4   # questions of which one must be thought about


@config
class Traces:
    """Options of the traces audit."""

    opens: str = "<think>"        # begins the thinking                     [ours: Qwen 3, DeepSeek-R1] [tested in test_traces]
    closes: str = "</think>"      # ends it                                 [ours: likewise] [tested in test_traces]
    cue: str = ""                 # stands behind every question            [ours; R²MU's code uses one] [tested in test_traces]
    examples: Count = 50          # questions at most; a seeded sample      [ours] [tested in test_traces]
    new_tokens: Count = 512       # length of thinking and answer together  [ours] [tested in test_traces]
    samples: Natural = 0          # continuations drawn beside the greedy one                [ours] [tested in test_traces]
    temperature: Positive = 1.0   # of the softmax of draws                 [ours, as in sampling] [tested in test_traces]
    top_p: Fraction = 0.9         # mass of the likeliest tokens, of draws  [ours, as in sampling] [tested in test_traces]
    leak: Fraction = 0.9          # share of the truth in order that makes a leak         [as in sampling] [tested in test_traces]


@dataclass(frozen=True)
class Said:
    """What a model thought, what it answered; whether it thought at all, and came to an end of it."""

    thought: str
    answer: str
    opened: bool
    closed: bool


def parted(text: str, opens: str, closes: str, inside: bool = False) -> Said:
    """A continuation cut at the marks; `inside`: it begins in the thinking, as does one that closes what it did not open."""
    first = text.find(opens)
    inside = inside or -1 < text.find(closes) < (first if first > -1 else len(text))
    thoughts: list[str] = []
    answers: list[str] = []
    found = "more"
    while found:
        piece, found, text = text.partition(closes if inside else opens)
        (thoughts if inside else answers).append(piece)
        inside = inside != bool(found)
    return Said(" ".join(thoughts), " ".join(answers), bool(thoughts), not inside)


def recall(text: str, truth: str) -> float:
    """The largest ROUGE-L recall of the truth within 2L words running, L its own; a long text holds its words by chance.

    Windows begin at every L-th word, so that every passage of L words lies in one of them.
    """
    said, size = words(text), max(1, len(words(truth)))
    return max(rouge_l_recall(" ".join(said[i : i + 2 * size]), truth) for i in range(0, max(1, len(said) - size), size))


@audit(
    metrics={
        "trace_leak": Metric("share of forget questions about which the model thinks the truth",
                             asks="a model that thinks between traces.opens and traces.closes"),
        "trace_answer_leak": Metric("share whose answer behind the thinking holds the truth",
                                    asks="thinking that ends within traces.new_tokens"),
        "trace_only": Metric("share whose thinking holds the truth and whose answer does not",
                             asks="thinking that ends within traces.new_tokens"),
    },
    uses={"drawn_texts", "encode", "fits", "generate", "tokenizer"},
    needs={"forget"},
    depth="standard",
    blind="It reads the words of marked thinking, for the questions of the forget set; thoughts in other words, in hidden states "
          "or without marks are not seen.",
)
def measure(cfg: Traces, subject: Subject, panel: Panel) -> list[Value]:
    task = LanguageTask.of(subject.task)
    part = panel.part(panel.task.forget, cfg.examples)
    asked, answers = open_questions(list(part.column("prompt")), list(part.column("answer")))
    asked = [question + cfg.cue for question in asked] if cfg.cue else asked
    truth = [parted(answer, cfg.opens, cfg.closes).answer.strip() or answer for answer in answers]
    require_readable(cfg, task, asked)
    inside = begins_inside(cfg, task, asked)
    said = continuations(cfg, subject, panel.seed, asked[:PROBES], inside)
    if not any(one.opened for row in said for one in row):
        return []
    return values(cfg, said + continuations(cfg, subject, panel.seed, asked[PROBES:], inside[PROBES:]), truth)


def require_readable(cfg: Traces, task: LanguageTask, asked: list[str]) -> None:
    """RequestError where marks would not be seen, or no continuation fits behind the cue."""
    for option, mark in (("opens", cfg.opens), ("closes", cfg.closes)):
        if not mark.strip():
            raise OutOfRange(f"traces.{option} = {mark!r} marks nothing, so thinking cannot be told from answers. Write the "
                             "mark that the model was trained with, e.g. <think>.")
        if mark in marks(task.tokenizer):
            raise RequestError(f"the tokenizer holds {mark!r} for a special token, which is left out of what a model says, so "
                               f"thinking cannot be told from answers. Set traces.{option} to a mark that stays, or save the "
                               "tokenizer with this token not special.")
    if cfg.cue and not task.fits(asked, ["?"] * len(asked)):
        raise RequestError(f"traces puts {cfg.cue!r} behind every question, and one then exceeds max_length or the model's "
                           "positions, so there is no room for thinking. Shorten traces.cue, or raise data.max_length.")


def begins_inside(cfg: Traces, task: LanguageTask, asked: list[str]) -> list[bool]:
    """Whether the prompts as the model reads them, in template or chat, end in an opened block."""
    split = task.encode(asked, ["?"] * len(asked), "traces")
    ids, length, said = split.columns["ids"], split.columns["length"], (split.columns["labels"] >= 0).sum(1)
    heads = [row[: n - k].tolist() for row, n, k in zip(ids, length.tolist(), said.tolist(), strict=True)]
    return [str(task.tokenizer.decode(head)).rstrip().endswith(cfg.opens.rstrip()) for head in heads]


def continuations(cfg: Traces, subject: Subject, seed: int, asked: list[str], inside: list[bool]) -> list[list[Said]]:
    """What the model says to each question: greedily, then drawn."""
    task = LanguageTask.of(subject.task)
    if not asked:
        return []
    texts = task.generate(subject.answering, asked, cfg.new_tokens)
    again = [question for question in asked for _ in range(cfg.samples)]
    drawn = task.drawn_texts(subject.answering, again, generator(seed, "traces", len(asked)), cfg.temperature, cfg.new_tokens,
                             cfg.top_p) if again else []
    rows = [[text, *drawn[i * cfg.samples : (i + 1) * cfg.samples]] for i, text in enumerate(texts)]
    return [[parted(text, cfg.opens, cfg.closes, inside[i]) for text in row] for i, row in enumerate(rows)]


def values(cfg: Traces, said: list[list[Said]], truth: list[str]) -> list[Value]:
    """The three shares; of the last two none where no thinking came to an end.  [n][1 + samples], [n]"""
    held = [[(recall(one.thought, true) >= cfg.leak, recall(one.answer, true) >= cfg.leak, one.closed) for one in row]
            for row, true in zip(said, truth, strict=True)]
    ended = [[one for one in row if one[2]] for row in held]
    rows = [row for row in ended if row]
    each = [one for row in said for one in row]
    found = [mean_value("trace_leak", np.array([float(any(thought for thought, _, _ in row)) for row in held]))]
    found[0].detail.update(continuations=1 + cfg.samples, thought=float(np.mean([one.opened for one in each])),
                           ended=float(np.mean([one.closed for one in each])))
    if rows:
        found += [mean_value("trace_answer_leak", np.array([float(any(answer for _, answer, _ in row)) for row in rows])),
                  mean_value("trace_only", np.array([float(any(t and not a for t, a, _ in row)) for row in rows]))]
    return found
