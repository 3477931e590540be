"""The one exception that a user's mistake raises."""


class AlignbenchError(Exception):
    """Something that the user can mend: the message says what, where, and what to do, in one line.

    The command line prints it and exits with code 2; from Python it is raised as it is.
    """
