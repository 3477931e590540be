"""When a continuation ends: at an end-of-sequence token, before a stop string, or at its maximum length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from alignbench.types.engine import Finish, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPARE = 4  # more tokens decoded than a stop string can span: a decoder may change the beginning of a text


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """All end-of-sequence tokens of generation_config.json, config.json and the tokenizer (chat models differ)."""
    found: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config.get_text_config(), tokenizer):
        ids = getattr(source, "eos_token_id", None)
        found.update(int(token) for token in (ids if isinstance(ids, (list, tuple)) else [ids]) if token is not None)
    return frozenset(found)


def find_stop(text: str, stop: Iterable[str]) -> tuple[int, int] | None:
    """Start and end of the first stop string in a text."""
    return min(((at, at + len(string)) for string in stop if (at := text.find(string)) >= 0), default=None)


class Ending:
    """The stopping criteria of a call. They read the new tokens only, so that nothing matches in the prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Iterable[int], sampling: Sampling) -> None:
        self.tokenizer = tokenizer
        self.ends = frozenset(ends)
        self.stop = sampling.stop
        self.max_tokens = sampling.max_tokens
        self._special = frozenset(tokenizer.all_special_ids)
        # text has no special tokens, so a stop string that spells one is matched by its id
        spelled = {token: text for text, token in tokenizer.get_added_vocab().items() if token in self._special}
        self._stop_tokens = frozenset(token for token, text in spelled.items() if text in self.stop)
        # each token of a text has at least one byte of it
        self._reach = SPARE + max((len(text.encode()) for text in self.stop), default=0)

    def of(self, tokens: Sequence[int]) -> tuple[Finish, str] | None:
        """Why the continuation ends with the last of these tokens, and its text; None if it continues."""
        last = tokens[-1]
        if last in self._stop_tokens:
            return "stop", self.text(tokens[:-1])
        if last in self.ends:
            return "end", self.text(tokens[:-1])
        if self.stop and find_stop(self.text(self._tail(tokens)), self.stop):
            text = self.text(tokens)
            if found := find_stop(text, self.stop):
                return "stop", text[: found[0]]
        if len(tokens) >= self.max_tokens:
            return "length", self.text(tokens)
        return None

    def text(self, tokens: Sequence[int]) -> str:
        if not tokens:
            return ""
        decoded: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decoded

    def _tail(self, tokens: Sequence[int]) -> list[int]:
        """The last tokens with text, as many as a stop string at their end can span."""
        with_text = (token for token in reversed(tokens) if token not in self._special)
        return list(islice(with_text, self._reach))[::-1]
