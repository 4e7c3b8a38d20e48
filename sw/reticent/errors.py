"""The two exceptions that end a command with one line instead of a traceback."""

__all__ = ["ToolError", "UserError"]


class UserError(Exception):
    """Bad input: one sentence that names the value and the remedy.

    The command line prints it on one line and exits with code 2; nothing is left half done.
    """


class ToolError(RuntimeError):
    """Something that this program relies on failed: a build tool, or the device itself.

    Not the user's mistake: the command line prints it on one line and exits with code 1.
    """
