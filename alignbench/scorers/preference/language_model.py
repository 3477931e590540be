"""A local language model as a judge: which letter it would answer, by log-probabilities, in both orders."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.special import expit

from alignbench.errors import AlignbenchError, first_line
from alignbench.models.checkpoint import find_checkpoint, load_engine, resolve_device
from alignbench.scorers.preference.pairs import Comparison, LastAsked, both_orders, verdict, win
from alignbench.scorers.preference.wording import LETTER, question, revision_of
from alignbench.scorers.sequence import identity
from alignbench.types.engine import Request
from alignbench.types.scorer import Item

CPU_TOKENS = 2048  # of a batch: a comparison is often longer than the engine's 512, and its letters share a batch


class LanguageModelJudge:
    """`preference=lm:FOLDER-OR-HUB-ID`: the letter A against the letter B, through its chat template where it has one.

    Numbers: win, consistent, first and second (the verdict in the output's favour where it is shown first, second),
    probability (that it prefers the output, the mean of both orders).
    """

    def __init__(self, path: str, device: str, trust_remote_code: bool) -> None:
        checkpoint = find_checkpoint(path, trust_remote_code=trust_remote_code)
        self.kind, self.name = "preference", f"lm:{checkpoint.name}"
        self.revision = revision_of(identity(checkpoint), LETTER)
        self.weights_sha256 = checkpoint.weights_sha256
        found = resolve_device(device)
        self._engine = load_engine(
            checkpoint, dtype=checkpoint.dtype, device=found, token_budget=CPU_TOKENS if found == "cpu" else None
        )
        self._tokenizer = self._engine.encoder.tokenizer
        self._special = [str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        self._preferred: LastAsked[Comparison] = LastAsked(self._ask)

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        found = []
        for orders in both_orders(items, self._preferred):
            said = orders and (win(orders[0], 1 - orders[0]), win(orders[1], 1 - orders[1]))
            found.append(verdict(said) | {"probability": sum(orders) / 2 if orders else 0.5})
        return found

    def _ask(self, comparisons: list[Comparison]) -> list[float | str]:
        """The probability of A against B. Prompts begin alike, so the engine computes what they share once."""
        letters = ("A", "B") if self._engine.chat_template else (" A", " B")
        requests = [Request(self._context(comparison), letter) for comparison in comparisons for letter in letters]
        logprobs = [0.0] * len(requests)
        reasons: dict[int, str] = {}
        for index, answer in self._engine.loglikelihood(requests):
            logprobs[index] = answer.logprob
            if answer.unscored is not None:
                reasons[index // 2] = answer.unscored
        return [
            reasons.get(number) or float(expit(a - b))
            for number, (a, b) in enumerate(zip(logprobs[::2], logprobs[1::2], strict=True))
        ]

    def _context(self, comparison: Comparison) -> str:
        asked = question(comparison, LETTER, self._special)
        if not self._engine.chat_template:
            return f"{asked}\nBetter answer:"
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True
                )
            )
        except Exception as error:  # jinja and the template raise what they like
            raise AlignbenchError(
                f"judge {self.name}: its chat template does not take a lone user's message ({first_line(error)})"
            ) from error
