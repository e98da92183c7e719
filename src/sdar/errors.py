"""The one exception people are meant to read."""


class SdarError(Exception):
    """A problem the user can fix: one sentence naming the file or key, and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """
