"""Panels of judges: the majority of several judges of any kind (Verga et al. 2024, arXiv 2404.18796)."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import combinations

from alignbench.errors import AlignbenchError
from alignbench.scorers.preference import verdict, win
from alignbench.scorers.registry import all_scorers, find_scorer
from alignbench.types.engine import THINKING, Thinking
from alignbench.types.scorer import Explained, Item, Numbers, Scorer, ScorerIdentity

KIND = "preference"


class Panel:
    """`preference=panel:A,B,C`: judges as after `preference=`. A comma separates judges if the name of a judge follows.

    Numbers: "win" of the majority (each judge has one vote, ties half); "win_1", "win_2", … of the judges in order;
    "disagreement", the proportion of pairs of judges with different verdicts. If a judge sees an order, also "first",
    "second" and "consistent" of the majority, in which a judge that sees no order has the same vote twice. Without
    the verdict of one judge there is none.
    """

    kind = KIND

    def __init__(self, path: str, device: str, trust_remote_code: bool, thinking: Thinking | None = THINKING) -> None:
        specs = split_judges(path)
        if len(specs) < 2 or len(set(specs)) < len(specs):
            raise AlignbenchError(f"panel:{path}: name two or more different judges, as panel:lm:MODEL,reward:MODEL")
        if nested := [spec for spec in specs if spec.startswith("panel")]:
            raise AlignbenchError(f"panel:{path}: {nested[0]} is a panel itself; name its judges")
        given = {"device": device, "trust_remote_code": trust_remote_code, "thinking": thinking}
        self._of([find_scorer(f"{KIND}={spec}", **given) for spec in specs])  # type: ignore[arg-type]

    def _of(self, members: Sequence[Scorer]) -> "Panel":
        self.members = members
        self.name = f"panel:{','.join(member.name for member in members)}"
        identities = "\n".join(f"{own.name}@{own.revision}" for own in map(ScorerIdentity.of, members))
        self.revision = hashlib.sha256(identities.encode()).hexdigest()
        return self

    def again(self, seed: int, temperature: float) -> "Panel":
        """The panel with sampled answers of the members that generate text."""
        asked = [getattr(own, "again", lambda *_, own=own: own)(seed, temperature) for own in self.members]
        return Panel.__new__(Panel)._of(asked)

    def score(self, items: Sequence[Item]) -> list[Numbers | str]:
        found = [member.score(items) for member in self.members]
        return [self._combine(own) for own in zip(*found, strict=True)]

    def _combine(self, found: Sequence[Numbers | str]) -> Numbers | str:
        known = [own for own in found if not isinstance(own, str)]
        if len(known) < len(found):
            return next(f"{m.name}: {own}" for m, own in zip(self.members, found, strict=True) if isinstance(own, str))
        votes = [own["win"] for own in known]
        pairs = [one != other for one, other in combinations(votes, 2)]
        numbers: dict[str, float] = {"win": majority(votes), "disagreement": sum(pairs) / len(pairs)}
        if any("first" in own for own in known):
            orders = (majority([own.get(name, own["win"]) for own in known]) for name in ("first", "second"))
            first, second = orders
            numbers |= {name: x for name, x in verdict((first, second)).items() if name != "win"}
        numbers |= {f"win_{number}": own for number, own in enumerate(votes, 1)}
        reasons: Mapping[str, str] = {
            f"{number} {name}": text
            for number, own in enumerate(known, 1)
            for name, text in getattr(own, "reasons", {}).items()
        }
        return Explained(numbers, reasons) if reasons else numbers


def majority(votes: Sequence[float]) -> float:
    """1.0, 0.5 or 0.0."""
    return win(sum(votes), len(votes) / 2)


def split_judges(path: str) -> list[str]:
    names = "|".join(re.escape(row.name) for row in all_scorers() if row.kind == KIND)
    return re.split(rf",(?=(?:{names})(?:[:,]|$))", path)
