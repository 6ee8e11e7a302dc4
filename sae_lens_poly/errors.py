"""The one exception that this package raises for input that a user can mend."""


class InputError(ValueError):
    """Wrong input. The message names the field, its value and the remedy.

    The command line prints the message alone and exits with status 2.
    """
