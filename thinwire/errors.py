"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """Bad input, said in one sentence: what is wrong and what to do. The command line prints it and exits with 2."""
