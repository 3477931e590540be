"""Chat templates: messages to text, under limits of time and memory and with a fixed date, and the end of a turn."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from alignbench.errors import AlignbenchError, first_line
from alignbench.types.engine import messages_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 10.0  # for one text; templates need milliseconds, but a hostile one can loop for hours
MEMORY = 2**29  # bytes more than before, for one text
BITS = 4096  # of a product of whole numbers: larger ones are computed without a chance to interrupt
STATUS = Path("/proc/self/status")
DATE = "2026-01-01"  # what `strftime_now` prints, so that a prompt does not depend on the day
SYSTEM, QUESTION, ANSWER = "Be brief.", "What is it?", "It is the answer."


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
