"""A language model behind an OpenAI-compatible endpoint as a judge: it writes its verdict, in both orders."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence

from alignbench.console import printable
from alignbench.errors import AlignbenchError
from alignbench.models.remote.endpoint import connect
from alignbench.scorers.preference.pairs import Comparison, LastAsked, both_orders, verdict
from alignbench.scorers.preference.wording import EXPLAIN, question, read_verdict, revision_of
from alignbench.types.engine import Completion, Prompt, Sampling
from alignbench.types.scorer import Item, ScorerGoneError

SAMPLING = Sampling(max_tokens=1024)  # a few sentences, and room for a model that thinks first
SHOWN = 80  # last characters of an answer without a verdict


class EndpointJudge:
    """`preference=endpoint:https://host/v1#model`: the last [[A]], [[B]] or [[C]] that it writes, greedily.

    Numbers: win, consistent, first and second (the verdict in the output's favour where it is shown first, second).
    An answer without a verdict is no tie: its document is unscored.
    """

    weights_sha256: str | None = None

    def __init__(self, spec: str) -> None:
        self._engine = connect(spec, notify=lambda line: print(printable(line), file=sys.stderr))
        named = self._engine.identity()
        self.kind, self.name = "preference", f"endpoint:{named['name']}"
        self.revision = revision_of(f"{named['reported'] or named['name']} at {named['url']}", EXPLAIN)
        self._preferred: LastAsked[Comparison] = LastAsked(self._ask)

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        return [verdict(orders) for orders in both_orders(items, self._preferred)]

    def _ask(self, comparisons: list[Comparison]) -> list[float | str]:
        """Raises ScorerGoneError where the endpoint does not answer any more."""
        prompts = [_prompt(question(comparison, EXPLAIN)) for comparison in comparisons]
        found: dict[int, float | str] = {}
        try:
            for index, (written,) in self._engine.generate(prompts, SAMPLING, chat=self._engine.chat_template):
                found[index] = _read(written)
        except AlignbenchError as error:
            raise ScorerGoneError(f"{self.name}: {error}; the same command asks for the other verdicts") from error
        return [found[i] for i in range(len(prompts))]


def _prompt(text: str) -> Prompt:
    return Prompt(hashlib.sha256(text.encode()).hexdigest(), text)


def _read(written: Completion) -> float | str:
    if written.unscored is not None:
        return f"the judge gave no verdict: {written.unscored}"
    found = read_verdict(written.text)
    if found is not None:
        return found
    text = " ".join(printable(" ".join(written.text.split())).split())
    cut = " (cut at its longest)" if written.finish == "length" else ""
    return f"the judge gave no verdict: {f'…{text[-SHOWN:]!r}' if text else 'an empty answer'}{cut}"
