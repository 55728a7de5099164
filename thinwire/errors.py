"""The exception for errors that the user can correct."""


class UserError(ValueError):
    """Bad input; one sentence: what is wrong and what to do. The command line prints it and exits with code 2."""
