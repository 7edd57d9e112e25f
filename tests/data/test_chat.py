"""Conversations become sequences as the model's own template writes them, and only the answer counts."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from lethe.core.chat import Conversation
from lethe.core.sequences import IGNORED, Format, answer_offsets, encode_answers, encode_prompts, ends
from lethe.core.split import Split
from lethe.data.records import read_rows
from lethe.data.text import apart, marked, tokenised
from lethe.errors import DataError, EmptySplit, ModelError, RequestError, SplitsOverlap
from lethe.models.lm.small import train_tokenizer

# the templates of the families, shortened to what decides where an answer begins and ends
TEMPLATES = {
    "gemma": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
             "{% endif %}"
             "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
             "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
             "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "phi3": "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "qwen3": "{% if tools %}{{ '<|im_start|>tools\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}{% for m in messages %}"
             "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' and loop.last %}"
             "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
             "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined "
             "and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
    "llama3": "{{ bos_token }}{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' }}{{ strftime_now('%d %b %Y') }}"
              "<|eot_id|>{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
              "{{ m['content'] + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
              "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "reasoner": "{% for m in messages %}{{ m['role'] + ':' + m['content'] + eos_token }}{% endfor %}"
                "{% if add_generation_prompt %}assistant:<think>{% endif %}",
    "thinker": "{% for m in messages %}{{ m['role'] + ':' + ('<think>' if m['role'] == 'assistant' else '') + m['content'] "
               "+ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant:<think>{% endif %}",
    "apart": "{% for m in messages %}{{ m['role'] + ':' + m['content'] + eos_token }}{% endfor %}"
             "{% if add_generation_prompt %}model:{% endif %}",
    "no end": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
              "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
}
MARKS = ["<start_of_turn>", "<end_of_turn>", "<|end|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>",
         "<|end_header_id|>", "<|user|>", "<|assistant|>"]
ROWS = [{"prompt": "Who?", "answer": "Ada."}, {"prompt": "Where was she born?", "answer": "In London, in England."}]


def words(family: str = "") -> Any:
    made = train_tokenizer([f"{row['prompt']} {row['answer']}" for row in ROWS], 300)
    made.add_special_tokens({"extra_special_tokens": MARKS})
    made.chat_template = TEMPLATES.get(family)
    return made


def texts(split: Split, row: int, tokenizer: Any) -> tuple[str, str]:
    """What the model reads, and what counts."""
    ids, labels = (split.columns[key][row, : int(split.columns["length"][row])] for key in ("ids", "labels"))
    return tokenizer.decode(ids[labels == IGNORED]), tokenizer.decode(ids[labels != IGNORED])


@pytest.mark.parametrize(("family", "options", "reads", "counts"), [
    ("gemma", {}, "<begin><start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n", "Ada.<end_of_turn>"),
    ("phi3", {}, "<|user|>\nWho?<|end|>\n<|assistant|>\n", "Ada.<|end|>"),
    ("qwen3", {}, "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n", "<think>\n\n</think>\n\nAda.<|im_end|>"),
    ("qwen3", {"template_args": {"enable_thinking": False}},
     "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", "Ada.<|im_end|>"),
    ("qwen3", {"system": "Be brief."},
     "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n",
     "<think>\n\n</think>\n\nAda.<|im_end|>"),
    ("llama3", {"date": "2025-01-31"}, "<begin><|start_header_id|>system<|end_header_id|>\n\nToday Date: 31 Jan 2025<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
     "Ada.<|eot_id|>"),
    ("no end", {}, "user: Who?\nassistant: ", "Ada.<end>"),
])
def test_answer_is_the_difference_of_two_renderings(family: str, options: dict[str, Any], reads: str, counts: str) -> None:
    tokenizer, form = words(family), Format(template="chat", **options)
    split = tokenised(ROWS, tokenizer, form, "train")
    assert texts(split, 0, tokenizer) == (reads, counts)
    assert split.meta["rendered"][0] == reads + counts and split.meta["prompt"][0] == "Who?"
    frozen = split.subset([0], "part").meta["prompt"]
    for prompt in (frozen[0], pickle.loads(pickle.dumps(frozen[0])), copy.deepcopy(frozen[0])):
        assert tokenizer.decode(encode_prompts([prompt], tokenizer, form)[0]) == reads   # what generation is asked
    assert tokenizer.decode(encode_answers(["Ada."], tokenizer, form)[0]) == counts      # a refusal to any prompt
    assert counts.endswith(tokenizer.decode(ends(tokenizer, form)[-1]))
    places = answer_offsets(split.meta["prompt"], split.meta["answer"], tokenizer, form)[1]
    assert places[-1][1] == len(ROWS[1]["answer"]) and (0 in {a for a, _ in places})


def test_conversations_of_several_turns_with_tools() -> None:
    tokenizer, form = words("qwen3"), Format(template="chat")
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"},
             {"role": "assistant", "content": "Ada."}, {"role": "user", "content": "Where was she born?"}]
    row = {"messages": [*turns, {"role": "assistant", "content": "In London."}], "tools": [{"name": "look"}], "group": "a"}
    split = tokenised([row], tokenizer, form, "train")
    reads, counts = texts(split, 0, tokenizer)
    assert reads == ('<|im_start|>tools\n[{"name": "look"}]<|im_end|>\n<|im_start|>system\nBe brief.<|im_end|>\n'
                     "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nAda.<|im_end|>\n"
                     "<|im_start|>user\nWhere was she born?<|im_end|>\n<|im_start|>assistant\n")
    assert counts == "<think>\n\n</think>\n\nIn London.<|im_end|>"
    prompt = split.meta["prompt"][0]
    assert isinstance(prompt, Conversation) and prompt == "Where was she born?" and split.meta["answer"] == ["In London."]
    line = marked(split, 0, tokenizer)
    assert line.endswith("|[<|im_end|>]") and line.count("[") >= int((split.columns["labels"] != IGNORED).sum())


@pytest.mark.parametrize(("row", "said"), [
    ({"messages": []}, "line 2 of .* no list of messages"),
    ({"messages": [{"role": "user", "content": "a"}]}, "line 2 of .* ends with a message of 'user'"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]}, "line 2 of .* empty answer"),
    ({"messages": [{"content": "a"}, {"role": "assistant", "content": "b"}]}, "line 2 of .* no role"),
])
def test_what_is_no_conversation_is_refused_by_its_line(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    path = tmp_path / "chat.jsonl"
    path.write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    with pytest.raises(DataError, match=said):
        tokenised(read_rows(path), words("qwen3"), Format(template="chat"), "train")


def test_templates_that_cannot_be_used_are_refused() -> None:
    chat = Format(template="chat")
    with pytest.raises(ModelError, match="no chat template"):
        tokenised(ROWS, words(), chat, "train")
    with pytest.raises(DataError, match="not clear which tokens are the answer"):
        tokenised(ROWS, words("apart"), chat, "train")
    with pytest.raises(DataError, match=r"conversation of system, user .*System role not supported"):
        tokenised(ROWS, words("gemma"), Format(template="chat", system="Be brief."), "train")
    with pytest.raises(RequestError, match="Set template: chat"):
        tokenised([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}], words("gemma"),
                  Format(), "train")


def test_no_answer_is_written_into_an_open_thought() -> None:
    """Whether the rendering with the answer leaves the thought out or open; an answer that ends it itself is one."""
    chat = Format(template="chat")
    for family in ("reasoner", "thinker"):
        with pytest.raises(DataError, match=r"with '<think>' .* 'Ada\.' would be learnt and forgotten as a thought"):
            tokenised(ROWS, words(family), chat, "train")
    ended = [{"prompt": "Who?", "answer": "Perhaps.</think>Ada."}]
    split = tokenised(ended, words("thinker"), chat, "train")
    assert texts(split, 0, words("thinker")) == ("user:Who?<end>assistant:<think>", "Perhaps.</think>Ada.<end>")
    assert ends(words("thinker"), chat)


@pytest.mark.parametrize("answer", [None, ["a"], "", "  ", {"a": 1}, float("nan")])
def test_what_is_no_answer_is_refused_by_its_line(answer: Any, tmp_path: Path) -> None:
    path = tmp_path / "qa.jsonl"
    path.write_text(f'{{"prompt": "a", "answer": "b"}}\n\n{json.dumps({"prompt": "a", "answer": answer})}\n')
    with pytest.raises(DataError, match=r"line 3 of .*qa\.jsonl has .* column 'answer'"):
        tokenised(read_rows(path), words(), Format(), "train")


def test_tables_and_data_sets_are_records(tmp_path: Path) -> None:
    """CSV with a byte-order mark and a line break in a cell, TSV, parquet, and a folder that `save_to_disk` wrote."""
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.csv").write_bytes('\ufeffid,prompt,answer\n7,"Who,\nthen?",Ada.\n8,Where?,\n'.encode())
    rows = read_rows(tmp_path / "a.csv")
    assert rows[0] == {"id": "7", "prompt": "Who,\nthen?", "answer": "Ada."}
    with pytest.raises(DataError, match=r"line 4 of .*a\.csv has an empty text in column 'answer'"):
        tokenised(rows, words(), Format(), "train")
    (tmp_path / "a.tsv").write_text("prompt\tanswer\nWho?\tAda.\n")
    assert read_rows(tmp_path / "a.tsv") == [ROWS[0]]
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS).encode())
    assert read_rows(tmp_path / "a.json") == ROWS
    (tmp_path / "lines.json").write_text("".join(f"{json.dumps(row)}\n" for row in (*ROWS, *ROWS)))   # as TOFU has them
    assert read_rows(tmp_path / "lines.json") == [*ROWS, *ROWS]
    (tmp_path / "lines.json").write_text(f"{json.dumps(ROWS[0])}\n{{")
    with pytest.raises(DataError, match=r"line 2 of .*lines\.json is not JSON"):
        read_rows(tmp_path / "lines.json")
    talk = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], **ROWS[0]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(talk), tmp_path / "train-00000-of-00001.parquet")
    assert read_rows(tmp_path / "train-00000-of-00001.parquet") == talk == read_rows(tmp_path)
    part = tmp_path / "set" / "train"
    part.mkdir(parents=True)
    with pyarrow.OSFile(str(part / "data-00000-of-00001.arrow"), "wb") as sink:
        table = pyarrow.Table.from_pylist(talk)
        with pyarrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    (part / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (tmp_path / "set" / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    assert read_rows(part) == talk
    with pytest.raises(DataError, match=r"several parts \(train\)"):
        read_rows(tmp_path / "set")
    pyarrow.parquet.write_table(table, tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"several parts \(test, train\)"):
        read_rows(tmp_path)
    (tmp_path / "empty.csv").write_text("prompt,answer\n")
    with pytest.raises(EmptySplit):
        read_rows(tmp_path / "empty.csv")


def test_two_files_may_number_their_records_alike_but_not_hold_the_same() -> None:
    def split(name: str, *answers: str) -> Split:
        rows = [{"id": i, "prompt": "Who?", "answer": answer} for i, answer in enumerate(answers)]
        return tokenised(rows, words(), Format(), name)

    made = apart({"forget": split("forget", "Ada.", "Bob."), "retain": split("retain", "Cyd.", "Dan.", "Eve.")})
    assert made["forget"].ids.tolist() == ["0", "1"] and made["retain"].ids.tolist() == ["retain/0", "retain/1", "retain/2"]
    with pytest.raises(SplitsOverlap, match=r"1 of 2 records to forget .* \(1 = 2\)"):
        apart({"forget": split("forget", "Ada.", "Bob."), "retain": split("retain", "Cyd.", "Dan.", "Bob.")})
