"""Who labels what, and in which order outputs are shown. Pure functions: a restarted server decides alike."""

import hashlib
import math
from collections.abc import Sequence

SPREAD = 3  # items per labeler among which the next one is chosen


def shown_order(key: str, labeler: str, item: int, outputs: int) -> list[int]:
    """The outputs' numbers in the order in which a labeler sees them: random, and unknown to who lacks the study's
    secret key."""
    return sorted(range(outputs), key=lambda number: _draw(key, labeler, item, number))


def choose(open_items: Sequence[int], labeler: str, labelers: int, seed: int) -> int | None:
    """The labeler's next item: a random one among the first that need judgements.

    open_items: in the study's order, without the labeler's own. Labelers work on the same part of the study, so
    agreement is known early, and the random choice mixes who shares items with whom.
    """
    window = open_items[: SPREAD * max(1, labelers)]
    return min(window, key=lambda item: _draw(seed, labeler, item, "next"), default=None)


def fair_share(needed: int, labelers: int) -> int:
    """The judgements that are left for one labeler if all active labelers share what the study still needs."""
    return math.ceil(needed / max(1, labelers))


def _draw(*parts: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "replace")).digest()
