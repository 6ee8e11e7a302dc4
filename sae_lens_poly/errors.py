"""The one exception that this package raises for input that a user can mend, and what it quotes."""


class InputError(ValueError):
    """Wrong input. The message names the field, its value and the remedy.

    The command line prints the message alone and exits with status 2.
    """


class DivergedRun(InputError):
    """A run whose loss or weights have become NaN or infinite. Nothing of it was saved."""


def first_line(error: Exception) -> str:
    """What another exception says, for the message of this one."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
