"""The decoding settings of a call, and when a continuation ends: at an end-of-sequence token, before a stop string, or
at its maximum length."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from alignbench.types.engine import UNFINISHED, Completion, Finish, Sampling, Thinking

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from alignbench.models.distributions import Drawn

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


class Thoughts:
    """The block of thoughts at the beginning of a continuation, found token by token.

    open: it has begun; inside: so has its tag at least, and it has not ended
    answer: number of tokens before the answer, None as long as this is not known
    """

    def __init__(self, thinking: Thinking, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.thinking, self.tokenizer = thinking, tokenizer
        self.open = self.inside = thinking.opened
        self.answer: int | None = None

    def add(self, tokens: Sequence[int]) -> None:
        """tokens: the continuation, with one new token at its end."""
        if self.answer is not None:
            return
        if not self.open:
            text = self._decode(tokens).lstrip()
            self.open = text.startswith(self.thinking.start)
            self.inside = bool(text) and (self.open or self.thinking.start.startswith(text))
            self.answer = 0 if text and not self.inside else None
        if self.open and self.thinking.end in self._decode(tokens[-SPARE - len(self.thinking.end.encode()) :]):
            self.inside, self.answer = False, len(tokens)

    def text(self, tokens: Sequence[int]) -> str:
        """The thoughts without their tags."""
        return self.thinking.within(self._decode(tokens[: self.answer]))

    def _decode(self, tokens: Sequence[int]) -> str:
        decoded: str = self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
        return decoded


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

    def thoughts(self) -> Thoughts | None:
        """Where a new continuation's thoughts will be noted."""
        return None if self.sampling.thinking is None else Thoughts(self.sampling.thinking, self.tokenizer)

    def end(self, tokens: Sequence[int], thoughts: Thoughts | None = None) -> tuple[Finish, str] | None:
        """Why a continuation ends with the last of these tokens, which follow the prompt, and its answer.

        thoughts: those of the continuation, if they are apart; only the end of the sequence and a limit end them
        """
        most = self.sampling.max_tokens
        if thoughts is None:
            return self._end(tokens, most)
        thoughts.add(tokens)
        if thoughts.inside:
            if tokens[-1] in self.ends:
                return "end", self._text(tokens[:-1])
            return ("length", self._text(tokens)) if len(tokens) >= (thoughts.thinking.limit or most) else None
        begin = thoughts.answer or 0
        if not thoughts.thinking.limit:
            most -= begin
        if begin == len(tokens):
            return None if most > 0 else ("length", "")
        return self._end(tokens[begin:] if begin else tokens, most, strip=thoughts.open)

    def completion(self, end: tuple[Finish, str], drawn: "Sequence[Drawn]", thoughts: Thoughts | None) -> Completion:
        """The completion of a continuation that ended."""
        written = [own.token for own in drawn if own.token not in self.ends]
        before = thoughts.text(written) if thoughts and thoughts.open else ""
        if thoughts and thoughts.inside and thoughts.open:
            return Completion("", end[0], unscored=UNFINISHED, thoughts=before)
        answer = drawn[thoughts.answer or 0 :] if thoughts else drawn
        tokens, logprobs, entropies, top = zip(*answer, strict=True) if answer else ((), (), (), ())
        top = top if self.sampling.top_entropies else ()
        return Completion(end[1], end[0], tokens, logprobs, entropies, top, thoughts=before)

    def _end(self, tokens: Sequence[int], most: int, strip: bool = False) -> tuple[Finish, str] | None:
        """strip: drop white space at the beginning of the text, which separates the answer from the thoughts."""
        if tokens[-1] in self._stop_tokens:
            return "stop", self._text(tokens[:-1], strip)
        if tokens[-1] in self.ends:
            return "end", self._text(tokens[:-1], strip)
        if self.sampling.stop:
            # the last tokens with text, as many as a stop string at their end can span
            with_text = (token for token in reversed(tokens) if token not in self._special)
            tail = list(islice(with_text, self._reach))[::-1]
            text = self._text(tokens, strip) if find_stop(self._text(tail), self.sampling.stop) else ""
            if found := find_stop(text, self.sampling.stop):
                return "stop", text[: found[0]]
        return ("length", self._text(tokens, strip)) if len(tokens) >= most else None

    def _text(self, tokens: Sequence[int], strip: bool = False) -> str:
        if not tokens:
            return ""
        decoded: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decoded.lstrip() if strip else decoded
