"""The one exception for what a user can mend."""


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
