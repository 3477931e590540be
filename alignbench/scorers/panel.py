"""Panels of judges: the majority of several judges of any kind (Verga et al. 2024, arXiv 2404.18796)."""

import hashlib
import re
from collections.abc import Sequence
from copy import copy
from itertools import combinations
from typing import Self

from alignbench.errors import AlignbenchError
from alignbench.scorers.preference import verdict, win
from alignbench.scorers.registry import all_scorers, find_scorer
from alignbench.types.engine import THINKING, Thinking
from alignbench.types.scorer import Explained, Item, Numbers, Scorer


class Panel:
    """`preference=panel:A,B,C`: judges as after `preference=`. A comma separates judges if the name of a judge follows.

    Numbers: "win" of the majority (each judge has one vote, ties half); "win_1", "win_2", … of the judges in order;
    "disagreement", the proportion of pairs of judges with different verdicts. If a judge sees an order, also "first",
    "second" and "consistent" of the majority, in which a judge that sees no order has the same vote twice. Without
    the verdict of one judge there is none.
    """

    kind = "preference"

    def __init__(self, path: str, device: str, trust_remote_code: bool, thinking: Thinking | None = THINKING) -> None:
        specs = split_judges(path)
        if len(specs) < 2 or len(set(specs)) < len(specs) or any(spec.startswith("panel:") for spec in specs):
            why = "name two or more different judges that are no panels, as panel:lm:MODEL,reward:MODEL"
            raise AlignbenchError(f"panel:{path}: {why}")
        self._seat([
            find_scorer(f"preference={own}", device=device, trust_remote_code=trust_remote_code, thinking=thinking)
            for own in specs
        ])  # fmt: skip

    def _seat(self, members: Sequence[Scorer]) -> None:
        self.members, self.name = members, f"panel:{','.join(own.name for own in members)}"
        self.revision = hashlib.sha256("\n".join(f"{own.name}@{own.revision}" for own in members).encode()).hexdigest()

    def again(self, seed: int, temperature: float) -> Self:
        other = copy(self)
        other._seat([own.again(seed, temperature) if hasattr(own, "again") else own for own in self.members])
        return other

    def score(self, items: Sequence[Item]) -> list[Numbers | str]:
        return [self._combine(own) for own in zip(*(member.score(items) for member in self.members), strict=True)]

    def _combine(self, found: Sequence[Numbers | str]) -> Numbers | str:
        for member, failed in zip(self.members, found, strict=True):
            if isinstance(failed, str):
                return f"{member.name}: {failed}"
        known = [own for own in found if not isinstance(own, str)]
        votes = [own["win"] for own in known]
        different = [one != other for one, other in combinations(votes, 2)]
        numbers = {"win": majority(votes), "disagreement": sum(different) / len(different)}
        if any("first" in own for own in known):
            first, second = (majority([own.get(at, own["win"]) for own in known]) for at in ("first", "second"))
            numbers = verdict((first, second)) | numbers
        numbers |= {f"win_{number}": own for number, own in enumerate(votes, 1)}
        given = [(number, getattr(own, "reasons", {})) for number, own in enumerate(known, 1)]
        return Explained(numbers, {f"{number} {name}": text for number, own in given for name, text in own.items()})


def majority(votes: Sequence[float]) -> float:
    return win(sum(votes), len(votes) / 2)


def split_judges(path: str) -> list[str]:
    names = "|".join(re.escape(row.name) for row in all_scorers() if row.kind == "preference")
    return re.split(rf",(?=(?:{names})(?:[:,]|$))", path)
