"""Where a continuation ends: at an end-of-sequence token, before a stop string, at the last token allowed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignbench.types.engine import Finish

SPARE = 4  # tokens decoded before those that a stop string can lie in: a decoder may change how a text begins


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """All tokens that end a sequence: of generation_config.json, config.json and the tokenizer (chat models differ)."""
    found: set[int] = set()
    sources = (getattr(model, "generation_config", None), model.config.get_text_config(), tokenizer)
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        found.update(int(token) for token in (ids if isinstance(ids, (list, tuple)) else [ids]) if token is not None)
    return frozenset(found)


class Ending:
    """Looks at the new tokens alone, so that nothing matches in the prompt."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, ends: Iterable[int], stop: Sequence[str], max_tokens: int
    ) -> None:
        self.tokenizer = tokenizer
        self.ends = frozenset(ends)
        self.stop = tuple(stop)
        self.max_tokens = max_tokens
        self._special = frozenset(tokenizer.all_special_ids)
        # a stop string that spells a special token is not in the text, which has none
        spelled = {token: text for text, token in tokenizer.get_added_vocab().items() if token in self._special}
        self._stop_tokens = frozenset(token for token, text in spelled.items() if text in self.stop)
        # a token of a text has a byte of it or more
        self._reach = SPARE + max((len(text.encode()) for text in self.stop), default=0)

    def of(self, tokens: Sequence[int]) -> tuple[Finish, str] | None:
        """Why the continuation ends with the last of these tokens, and its text; None where it goes on."""
        last = tokens[-1]
        if last in self._stop_tokens:
            return "stop", self.text(tokens[:-1])
        if last in self.ends:
            return "end", self.text(tokens[:-1])
        if self.stop and self._seen(self.text(self._tail(tokens))):
            text = self.text(tokens)
            if found := [at for at in map(text.find, self.stop) if at >= 0]:
                return "stop", text[: min(found)]
        if len(tokens) >= self.max_tokens:
            return "length", self.text(tokens)
        return None

    def text(self, tokens: Sequence[int]) -> str:
        if not tokens:
            return ""
        decoded: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decoded

    def _tail(self, tokens: Sequence[int]) -> list[int]:
        """The last tokens that have text, as many as a stop string that ends with them can lie in."""
        tail: list[int] = []
        for token in reversed(tokens):
            if token not in self._special:
                tail.append(token)
                if len(tail) == self._reach:
                    break
        return tail[::-1]

    def _seen(self, text: str) -> bool:
        return any(stop in text for stop in self.stop)
