"""The decoding settings of a call, and when a continuation ends: at an end-of-sequence token, before a stop string, or
at its maximum length."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from alignbench.types.engine import Finish, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPARE = 4  # more tokens decoded than a stop string can span: a decoder may change the beginning of a text


def end_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """All end-of-sequence tokens of generation_config.json, config.json and the tokenizer (chat models differ)."""
    found: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config.get_text_config(), tokenizer):
        ids = getattr(source, "eos_token_id", None)
        found.update(int(token) for token in (ids if isinstance(ids, (list, tuple)) else [ids]) if token is not None)
    return frozenset(found)


def find_stop(text: str, stop: Iterable[str]) -> tuple[int, int] | None:
    """Start and end of the first stop string in a text."""
    return min(((at, at + len(string)) for string in stop if (at := text.find(string)) >= 0), default=None)


class Decoding:
    """Sampling parameters, seed and end-of-sequence tokens of a call. Raises ValueError for an empty stop string."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", ends: Iterable[int], sampling: Sampling, seed: int = 0
    ) -> None:
        if "" in sampling.stop:
            raise ValueError("an empty stop string matches every text")
        self.tokenizer, self.ends, self.sampling, self.seed = tokenizer, frozenset(ends), sampling, seed
        self._special = frozenset(tokenizer.all_special_ids)
        # text has no special tokens, so a stop string that spells one is matched by its id
        spelled = {token: text for text, token in tokenizer.get_added_vocab().items() if token in self._special}
        self._stop_tokens = frozenset(token for token, text in spelled.items() if text in sampling.stop)
        # each token of a text has at least one byte of it
        self._reach = SPARE + max((len(text.encode()) for text in sampling.stop), default=0)

    def end(self, tokens: Sequence[int]) -> tuple[Finish, str] | None:
        """Why a continuation ends with the last of these tokens, which follow the prompt, and its text."""
        if tokens[-1] in self._stop_tokens:
            return "stop", self._text(tokens[:-1])
        if tokens[-1] in self.ends:
            return "end", self._text(tokens[:-1])
        if self.sampling.stop:
            # the last tokens with text, as many as a stop string at their end can span
            with_text = (token for token in reversed(tokens) if token not in self._special)
            tail = list(islice(with_text, self._reach))[::-1]
            text = self._text(tokens) if find_stop(self._text(tail), self.sampling.stop) else ""
            if found := find_stop(text, self.sampling.stop):
                return "stop", text[: found[0]]
        return ("length", self._text(tokens)) if len(tokens) >= self.sampling.max_tokens else None

    def _text(self, tokens: Sequence[int]) -> str:
        if not tokens:
            return ""
        decoded: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decoded
