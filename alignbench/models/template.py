"""Chat templates: messages to text, under limits of time and memory and with a fixed date, and the end of a turn."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from alignbench.errors import AlignbenchError, first_line
from alignbench.parse import find_path, read_text
from alignbench.types.engine import messages_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 10.0  # for one text; templates need milliseconds, but a hostile one can loop for hours
MEMORY = 2**29  # bytes more than before, for one text
BITS = 4096  # of a product of whole numbers: larger ones are computed without a chance to interrupt
STATUS = Path("/proc/self/status")
DATE = "2026-01-01"  # what `strftime_now` prints, so that a prompt does not depend on the day
SYSTEM, QUESTION, ANSWER = "Be brief.", "What is it?", "It is the answer."
IM_END = "<|im_end|>"
TEMPLATES = {  # for tokenizers without one: ChatML, and dialogues as in HH-RLHF (arXiv 2204.05862)
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "plain": "{% for m in messages %}{{ '\n\n' + {'user': 'Human'}.get(m.role, m.role | title) + ': ' + m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}",
}

Render = Callable[[list[dict[str, str]], bool], str]  # (messages, add_generation_prompt) -> text


class FixedClock(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromisoformat(DATE)


class Sandbox(ImmutableSandboxedEnvironment):
    """transformers' environment, with bounded whole numbers."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            times = right if operator == "**" else 1
            if abs(left) > 1 and left.bit_length() * times + (operator == "*") * right.bit_length() > BITS:
                raise OverflowError(f"a number of more than {BITS} bits")
        return super().call_binop(context, operator, left, right)


setattr(chat_template_utils, "ImmutableSandboxedEnvironment", Sandbox)  # noqa: B010 - there is no parameter for it


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], **variables: Any) -> str:
    """The text of these messages, with all special tokens. variables: of the template, and add_generation_prompt

    Raises ValueError with the reason if the template fails.
    """
    if prints_date(tokenizer):  # transformers passes no function to a template, and reads the clock by this name
        setattr(chat_template_utils, "datetime", FixedClock)  # noqa: B010
    try:
        with time_limit(SECONDS), memory_limit(MEMORY):
            text = tokenizer.apply_chat_template(list(map(dict, messages)), **{**variables, "tokenize": False})
        return str(text)
    except TimeoutError as error:
        raise ValueError(f"it takes more than {SECONDS:g} s") from error
    except MemoryError as error:
        raise ValueError(f"it needs more than {MEMORY // 2**20} MiB") from error
    except Exception as error:  # jinja and the template raise errors of any kind
        raise ValueError(first_line(error)) from error


def find_template(name: str) -> str:
    """The chat template of this name in TEMPLATES, or in a file. Raises AlignbenchError."""
    try:
        return TEMPLATES[name] if name in TEMPLATES else read_text(find_path(name))
    except FileNotFoundError:
        raise AlignbenchError(f"chat_template: {name!r} is not {', '.join(TEMPLATES)} or a file") from None


def set_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give the tokenizer a template of `find_template`. If it has no token `<|im_end|>`, its end-of-sequence token ends
    the turns of ChatML, and `<|im_start|>` is text."""
    text = find_template(name)
    if name == "chatml" and tokenizer.eos_token and IM_END not in tokenizer.get_vocab():
        text = text.replace(IM_END, "{{ eos_token }}")
    tokenizer.chat_template = text


def renderer(tokenizer: PreTrainedTokenizerBase) -> Render:
    """The tokenizer's chat template as a function, without the start token if tokenising adds one, and without text
    after the token that ends a turn or a text (ChatML: a newline), which no response that was sampled contains."""
    if not tokenizer.chat_template:
        raise AlignbenchError("the tokenizer has no chat template: set chat_template=chatml, plain or a file")
    end = end_of_turn(tokenizer)
    turn = None if end is None else str(tokenizer.convert_ids_to_tokens(end))
    adds_start = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]

    def call(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            text = render(tokenizer, messages, add_generation_prompt=add_generation_prompt)
        except ValueError as error:
            raise ValueError(f"the chat template does not accept these messages ({error})") from None
        text = text.removeprefix(tokenizer.bos_token if adds_start else "")
        ends = not add_generation_prompt and text.rstrip().endswith(tuple(filter(None, (tokenizer.eos_token, turn))))
        return text.rstrip() if ends else text

    return call


def render_pair(messages: list[dict[str, str]], response: list[dict[str, str]], template: Render) -> tuple[str, str]:
    """The rendered prompt, and what the response adds to it. Raises ValueError."""
    text, whole = template(messages, True), template([*messages, *response], False)
    if not whole.startswith(text):
        raise ValueError("the chat template renders the prompt differently when a response follows")
    return text, whole[len(text) :]


def check_system(tokenizer: PreTrainedTokenizerBase, name: str, variables: Mapping[str, Any]) -> None:
    """Raise AlignbenchError if the chat template refuses a system message, or leaves it or the user's message out."""
    reason = "leaves it out"
    try:
        text = render(tokenizer, messages_of(QUESTION, SYSTEM), **{**variables, "add_generation_prompt": True})
        if SYSTEM in text and QUESTION in text:
            return
    except ValueError as error:
        reason = str(error)
    raise AlignbenchError(f"{name}: its chat template supports no system message ({reason}); leave --system out")


def prints_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    return "strftime_now" in str(tokenizer.chat_template)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that follows the assistant's text in the chat template; None if there is none."""
    with suppress(ValueError):
        messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
        _, answer, rest = render(tokenizer, messages, add_generation_prompt=False).rpartition(ANSWER)
        ids = tokenizer(rest.lstrip(), add_special_tokens=False)["input_ids"] if answer else []
        if ids and ids[0] in {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}:
            return int(ids[0])
    return None


_one_at_a_time = threading.Lock()  # the limit is the process's


@contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Let the process allocate `size` bytes more, on Linux; then allocations raise MemoryError."""
    used = re.search(r"VmData:\s*(\d+) kB", STATUS.read_text()) if STATUS.is_file() else None
    if used is None:
        yield
        return
    import resource  # not on Windows

    with _one_at_a_time:
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limits = [limit for limit in (1024 * int(used[1]) + size, soft, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in this thread after so many seconds, between two instructions of Python."""
    thread, error = ctypes.c_ulong(threading.get_ident()), ctypes.py_object(TimeoutError)
    timer = threading.Timer(seconds, ctypes.pythonapi.PyThreadState_SetAsyncExc, (thread, error))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
