"""The exception for a user's mistake, and how errors of libraries are quoted in its message."""


class AlignbenchError(Exception):
    """Something that the user can fix: the message says what is wrong, where, and what to do, in one line.

    The command line prints it and exits with code 2; from Python it is raised as it is.
    """


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, or its type, for use in a message of one line."""
    text = str(error).strip() or type(error).__name__
    return " ".join(text.splitlines()[0].split())[:300]
