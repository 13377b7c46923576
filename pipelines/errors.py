"""The one exception for what a user can mend, and how others' errors are quoted in it."""


class UserError(ValueError):
    """Something the user can mend: what is wrong (with the value seen), and what to do about it.

    The command line prints it without a traceback and exits 2; the studio shows it in words.

    Args:
        what: what is wrong and where, with the value seen, without a closing full stop.
        remedy: what to do, as an imperative, without a closing full stop.
    """

    def __init__(self, what: str, remedy: str):
        super().__init__(f"{what}. {remedy}.")
        self.what, self.remedy = what, remedy


def first_line(error: Exception) -> str:
    """What a library says, short enough for a sentence, without a closing full stop; its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
