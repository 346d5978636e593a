"""Every failure that a user can cause, as an exception with the exit code that the command line ends with.

Messages are worded where the problem is found: where it is, what was expected, what came, what to do about it. The
command line prints them and exits; nothing in between catches them.
"""


class NnjitError(Exception):
    """A failure with a message for the user; the base class is for what the system refused (a full or read-only
    disk)."""

    exit_code = 1


class ConfigError(NnjitError):
    """The configuration cannot be used; the message lists every problem found, one per line."""

    exit_code = 2


class DataError(NnjitError):
    """A data file or a checkpoint is missing, damaged, or does not fit the configuration."""

    exit_code = 3


class DivergedError(NnjitError):
    """The loss became NaN or infinite."""

    exit_code = 4


class CheckFailedError(NnjitError):
    """A check that the user asked for found a fault (a wrong gradient, say)."""

    exit_code = 5


class InterruptedRun(NnjitError):
    """A signal stopped the run after its state was saved; the exit code is 128 plus the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
