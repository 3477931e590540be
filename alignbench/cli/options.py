"""What several commands read from the command line in the same way."""

from __future__ import annotations

from alignbench.errors import AlignbenchError


def columns_of(specs: list[str] | None) -> dict[str, str]:
    """--map THEIRS=OURS, repeated: the file's name of a column -> the name that it has here."""
    found: dict[str, str] = {}
    for spec in specs or []:
        theirs, equals, ours = spec.rpartition("=")
        if not (theirs and equals and ours):
            raise AlignbenchError(f"--map {spec}: write THEIRS=OURS, such as response=output")
        if theirs in found:
            raise AlignbenchError(f"--map {spec}: {theirs} is mapped already, to {found[theirs]}")
        found[theirs] = ours
    return found
