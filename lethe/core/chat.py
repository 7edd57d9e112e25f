"""Chats as their model's own template writes them: the answer is what a rendering with it has behind one without it.

    turn = written(prompt, "Ada.", tokenizer, form)      turn.head + turn.tail is the rendering, cut behind the answer's end mark

So end marks, empty think blocks and role names are those that the model was trained with. A template that asks for today's date
is given a fixed day: the same records are the same tokens tomorrow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

from lethe.core.user_files import reason
from lethe.errors import DataError, ModelError, OutOfRange

OPENS, CLOSES = "<think>", "</think>"   # around what a model thinks before it answers: Qwen 3, DeepSeek-R1
CLOCK = re.compile(r"strftime_now\(\s*(?P<quote>['\"])(?P<form>.*?)(?P=quote)\s*\)")
Message = Mapping[str, Any]


class Chat(Protocol):
    """How a tokenizer's chat template is filled in: `lethe.core.sequences.Format`."""

    @property
    def system(self) -> str:
        """System message in front of prompts that are no conversation of their own."""

    @property
    def template_args(self) -> Mapping[str, Any]:
        """Passed to the template."""

    @property
    def date(self) -> str:
        """The day that a template is told."""


@dataclass(frozen=True)
class Turn:
    """head: what the model reads; tail: what it should write, end mark included; start: where in the tail the answer begins."""

    head: str
    tail: str
    start: int


class Conversation(str):
    """A prompt that is a whole conversation: the text of its last message, with all messages, tools and their rendering.

    Where only the text goes on (a prefix is put before it, it is reworded), it is asked as a conversation of its own.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None
    head: str   # as the template wrote it, up to the answer

    def __new__(
        cls, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None, head: str = ""
    ) -> Conversation:
        made = super().__new__(cls, said(messages[-1]) if messages else "")
        made.messages, made.tools, made.head = messages, tools, head
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.messages, self.tools, self.head


def said(message: Message) -> str:
    """The text of a message; of several blocks those that are text."""
    content = message.get("content")
    if isinstance(content, (list, tuple)):
        return "".join(str(block.get("text") or "") for block in content if isinstance(block, Mapping))
    return "" if content is None else str(content)


def opening(prompt: str, tokenizer: Any, form: Chat) -> str:
    """What the model reads before it answers."""
    if isinstance(prompt, Conversation) and prompt.head:
        return prompt.head
    messages, tools = asked(prompt, form)
    return _render(tokenizer, form, messages, tools, answered=False)


def written(prompt: str, answer: str, tokenizer: Any, form: Chat) -> Turn:
    """A prompt and its answer as the template writes them. DataError when the one without is not the beginning of the other, or
    ends within a thought that the other does not end.

    The tail ends behind the first end mark after the answer: what a template writes between turns no model writes itself.
    A template without one gets the tokenizer's end token.
    """
    messages, tools = asked(prompt, form)
    head = opening(prompt, tokenizer, form)
    whole = _render(tokenizer, form, [*messages, {"role": "assistant", "content": answer}], tools, answered=True)
    if head.rfind(OPENS) > head.rfind(CLOSES) and not (whole.startswith(head) and CLOSES in whole[len(head) :]):
        raise DataError(f"the chat template ends a prompt with {head[head.rfind(OPENS) :].strip()!r} and does not write how that "
                        f"thought ends, so the answer {answer[:40]!r} would be learnt and forgotten as a thought. Set "
                        f"template_args so that none is begun (e.g. enable_thinking: false), begin every answer with {CLOSES}, "
                        "or write data.template yourself.")
    if not whole.startswith(head):
        same = next((i for i, (a, b) in enumerate(zip(head, whole, strict=False)) if a != b), min(len(head), len(whole)))
        apart = [text[max(0, same - 20) :][:60] for text in (head, whole)]
        raise DataError(f"the chat template writes a prompt without its answer as …{apart[0]!r}, and with it as …{apart[1]!r}, "
                        "so it is not clear which tokens are the answer. Set template_args as the model was trained (e.g. "
                        "enable_thinking: false), or write data.template yourself.")
    tail = whole[len(head) :]
    start = tail.rfind(answer)
    if start < 0:
        start = max(0, tail.find(answer.strip()))
    length = len(answer) if tail.startswith(answer, start) else len(answer.strip())
    ends = [place for mark in marks(tokenizer) if (place := tail.find(mark, start + length)) >= 0]
    if not ends:
        return Turn(head, tail.rstrip() + str(tokenizer.eos_token or ""), start)
    first = min(ends)
    mark = max((one for one in marks(tokenizer) if tail.startswith(one, first)), key=len)
    return Turn(head, tail[: first + len(mark)], start)


def marks(tokenizer: Any) -> list[str]:
    """The tokens that are no text: ends, roles and the like."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    found = [str(token.content) for token in added.values() if token.special]
    return [mark for mark in dict.fromkeys([*found, *map(str, tokenizer.all_special_tokens)]) if mark]


def end_mark(tokenizer: Any, form: Chat) -> list[int]:
    """The token that ends an answer in this template."""
    tail = written("?", f"{CLOSES}!", tokenizer, form).tail
    return [int(tokenizer(tail, add_special_tokens=False)["input_ids"][-1])]


def checked(messages: Any, tools: Any, place: str) -> tuple[Conversation, str]:
    """The conversation before the last message, and that message's text; DataError with its place where it is none."""
    if not isinstance(messages, (list, tuple)) or not messages:
        raise DataError(f"{place} has no list of messages, so there is no conversation. Write [{{role: …, content: …}}, …].")
    for message in messages:
        if not isinstance(message, Mapping) or "role" not in message:
            raise DataError(f"{place} has {str(message)[:60]!r} among its messages, which has no role, so nobody says it. Write "
                            "{role: user, content: …}.")
    last = messages[-1]
    if last["role"] != "assistant" or len(messages) < 2:
        raise DataError(f"{place} ends with a message of {last['role']!r}, so there is no answer to forget. Let the assistant's "
                        "answer be the last of at least two messages.")
    if not said(last).strip():
        raise DataError(f"{place} has an empty answer, so there is nothing to learn or to forget. Leave the record out.")
    if tools is not None and not (isinstance(tools, (list, tuple)) and all(isinstance(one, Mapping) for one in tools)):
        raise DataError(f"{place} has tools that are no list of JSON schemas, so the template cannot write them. Correct them.")
    return Conversation(list(messages[:-1]), list(tools) if tools else None), said(last)


def asked(prompt: str, form: Chat) -> tuple[list[Message], Sequence[Mapping[str, Any]] | None]:
    """The messages and tools of a prompt: its own, or one message of the user behind the system's."""
    if isinstance(prompt, Conversation):
        return list(prompt.messages), prompt.tools
    system: list[Message] = [{"role": "system", "content": form.system}] if form.system else []
    return [*system, {"role": "user", "content": str(prompt)}], None


def _render(tokenizer: Any, form: Chat, messages: Sequence[Message], tools: Any, answered: bool) -> str:
    """What the template writes; errors of templates (a role that they do not know) are DataErrors."""
    try:
        template = tokenizer.get_chat_template(tools=tools)
    except (ValueError, AttributeError):
        raise ModelError("template: chat was requested, and the tokenizer has no chat template, so it is not known how the model "
                         "was asked. Write data.template as the model was trained, e.g. 'Question: {prompt}\\nAnswer: {answer}', "
                         "or save the tokenizer with its chat_template.") from None
    try:
        day = date.fromisoformat(form.date)
    except ValueError:
        raise OutOfRange(f"date = {form.date!r} is no day, so nothing was started. Write it as 2024-07-26.") from None
    dated = CLOCK.sub(lambda found: repr(day.strftime(found["form"])), template)
    try:
        return str(tokenizer.apply_chat_template(list(messages), tools=tools, chat_template=dated, tokenize=False,
                                                 add_generation_prompt=not answered, **form.template_args))
    except Exception as error:   # a template raises what it likes
        roles = ", ".join(dict.fromkeys(str(message.get("role")) for message in messages))
        raise DataError(f"the chat template cannot write a conversation of {roles} ({reason(error)}), so it is not known what "
                        "the model would read. Correct the messages, data.system or template_args.") from error
