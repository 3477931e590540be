"""The settings of thinking models: --thinking, --thinking-tags and --thinking-tokens."""

from alignbench.errors import AlignbenchError
from alignbench.types.engine import Thinking

MODES = ("auto", "strip", "keep")
TAGS = f"{Thinking.start},{Thinking.end}"


def find_thinking(mode: str = "auto", tags: str = TAGS, tokens: int | None = None) -> Thinking | None:
    """What is done with the thoughts of a model; None: they are part of the answer.

    mode: "auto", "strip" or "keep"; tags: "START,END"; tokens: limit of the thoughts, None for the default
    """
    if mode not in MODES:
        raise AlignbenchError(f"--thinking {mode}: choose {', '.join(MODES)}")
    start, comma, end = (part.strip() for part in tags.partition(","))
    if not (start and comma and end) or "," in end or start == end:
        raise AlignbenchError(f"--thinking-tags {tags}: write START,END, such as {TAGS}")
    if tokens is not None and tokens < 1:
        raise AlignbenchError(f"--thinking-tokens {tokens}: it must be at least 1")
    if mode == "keep":
        return None
    return Thinking(start, end, tokens or Thinking.limit, always=mode == "strip")
