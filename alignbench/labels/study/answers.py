"""What a labeler submits, checked: a message is a ValueError of one line that the page can show."""

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alignbench.labels.table import FLAGS, LIKERT
from alignbench.parse import parse_json

LONGEST = 64 * 1024  # bytes of a request
NOTE = 2_000  # characters
REASONS = ("unclear prompt", "unknown language", "distressing", "other")
Content = TypeVar("Content", bound="Undo")


class Marks(BaseModel):
    """Of one output."""

    model_config = ConfigDict(strict=True)
    rank: int = Field(ge=1, le=1_000)
    likert: int = Field(ge=LIKERT[0], le=LIKERT[1])
    flags: list[Literal[FLAGS]]  # type: ignore[valid-type]


class Undo(BaseModel):
    """submission: an identifier that the page chooses, the same for every retry"""

    model_config = ConfigDict(strict=True)
    submission: str = Field(pattern=r"^[0-9a-zA-Z-]{8,64}$")


class Submission(Undo):
    """A judgement of an item: the marks of each output in the order in which they were shown, or a reason for skipping.
    seconds: while the page was visible"""

    item: int = Field(gt=0, lt=2**31)
    answer: list[Marks] | None = Field(None, min_length=1)
    reason: Literal[REASONS] | None = None  # type: ignore[valid-type]
    note: str = Field("", max_length=NOTE)
    seconds: float = Field(0.0, ge=0, le=1e6)

    @model_validator(mode="after")
    def _complete(self) -> "Submission":
        if (self.answer is None) == (self.reason is None):
            raise ValueError("give either an answer or the reason for skipping")
        if self.reason == "other" and not self.note.strip():
            raise ValueError("describe the other reason in the note")
        return self

    def stored(self) -> list[dict[str, Any]] | None:
        """The answer as labels: ranks without gaps, and yes or no for every flag."""
        if self.answer is None:
            return None
        ranks = sorted({own.rank for own in self.answer})
        return [
            {"rank": 1 + ranks.index(own.rank), "likert": own.likert, "flags": {f: int(f in own.flags) for f in FLAGS}}
            for own in self.answer
        ]


def parse(kind: type[Content], body: bytes) -> Content:
    """Raises ValueError, in one line, for a request that is not complete and valid."""
    try:
        return kind.model_validate(parse_json(body))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
