"""Whether metrics across documents come with intervals: who measures many parts of a sample wants values alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_WANTED: ContextVar[bool] = ContextVar("intervals wanted", default=True)


@contextmanager
def values_only() -> Iterator[None]:
    """Within it, what costs many further measurements for an interval alone may be left out."""
    token = _WANTED.set(False)
    try:
        yield
    finally:
        _WANTED.reset(token)


def wanted() -> bool:
    return _WANTED.get()
