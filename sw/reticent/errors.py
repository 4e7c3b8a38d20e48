"""The one exception that a user's mistake raises."""

__all__ = ["UserError"]


class UserError(Exception):
    """Bad input: one sentence that names the value and the remedy.

    The command line prints it on one line and exits with code 2; nothing is left half done.
    """
