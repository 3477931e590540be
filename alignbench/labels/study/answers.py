"""What a labeler submits, checked: a message is a ValueError that the page can show."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alignbench.labels.table import FLAGS, LIKERT
from alignbench.parse import parse_json

LONGEST = 64 * 1024  # bytes of a request
NOTE = 2_000  # characters
REASONS = ("unclear prompt", "unknown language", "distressing", "other")
ID = re.compile(r"[0-9a-zA-Z-]{8,64}")


@dataclass(frozen=True)
class Submission:
    """One judgement of an item.

    id: chosen by the page, the same for every retry; answer: rank, Likert mark and flags of each output, in the order
    in which they were shown; None if the item is skipped for a reason; seconds: while the page was visible
    """

    id: str
    item: int
    answer: list[dict[str, Any]] | None
    reason: str | None
    note: str
    seconds: float


def parse_submission(body: bytes) -> Submission:
    """Raises ValueError for anything but a complete judgement or a skip with a reason."""
    content = _object(parse_json(body), "the request")
    note, seconds, reason = content.get("note", ""), content.get("seconds", 0), content.get("reason")
    if not isinstance(note, str) or len(note) > NOTE:
        raise ValueError(f"the note must be a text of at most {NOTE:,} characters")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 1e6:
        raise ValueError("seconds must be a number from 0 to 1,000,000")
    answer = content.get("answer")
    if (answer is None) == (reason is None):
        raise ValueError("give either an answer or the reason for skipping")
    if reason is not None and reason not in REASONS:
        raise ValueError(f"the reason must be one of: {', '.join(REASONS)}")
    if reason == "other" and not note.strip():
        raise ValueError("describe the other reason in the note")
    return Submission(
        submission_id(content), item_of(content), answer and _answer(answer), reason, note, float(seconds)
    )


def submission_id(content: Mapping[str, Any]) -> str:
    found = content.get("submission")
    if not isinstance(found, str) or not ID.fullmatch(found):
        raise ValueError("submission must be an identifier of 8 to 64 letters and digits")
    return found


def item_of(content: Mapping[str, Any]) -> int:
    found = content.get("item")
    if isinstance(found, bool) or not isinstance(found, int) or not 0 < found < 2**31:
        raise ValueError("item must be the number of an item")
    return found


def parse_undo(body: bytes) -> str:
    """The identifier of the submission to withdraw. Raises ValueError."""
    return submission_id(_object(parse_json(body), "the request"))


def _answer(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not given:
        raise ValueError("answer must be a list with an object for each output")
    marks = [_marks(_object(own, "the answer for an output")) for own in given]
    places = {rank: place for place, rank in enumerate(sorted({own["rank"] for own in marks}), 1)}
    return [own | {"rank": places[own["rank"]]} for own in marks]  # without gaps


def _marks(given: Mapping[str, Any]) -> dict[str, Any]:
    rank, likert, flags = (given.get(name) for name in ("rank", "likert", "flags"))
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= 1_000:
        raise ValueError("every output needs a rank, a whole number from 1")
    if isinstance(likert, bool) or not isinstance(likert, int) or not LIKERT[0] <= likert <= LIKERT[1]:
        raise ValueError(f"every output needs a rating from {LIKERT[0]} to {LIKERT[1]}")
    if not isinstance(flags, list) or not all(isinstance(name, str) and name in FLAGS for name in flags):
        raise ValueError(f"flags must be a list of: {', '.join(FLAGS)}")
    return {"rank": rank, "likert": likert, "flags": {name: int(name in flags) for name in FLAGS}}


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object")
    return value
