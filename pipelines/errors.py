"""The one exception for what a user can mend, and how others' errors are quoted in it."""

import re

MOST = 1000  # letters of what is wrong, and of what to do: a value that was seen may be a whole file
# What moves a terminal's cursor or its colours, ends a line, turns the order of letters, or is no letter at all.
UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(ValueError):
    """Something the user can mend: what is wrong (with the value seen), and what to do about it.

    The command line prints it without a traceback and exits 2; the studio shows it in words.

    Args:
        what: what is wrong and where, with the value seen, without a closing full stop.
        remedy: what to do, as an imperative, without a closing full stop.
    """

    def __init__(self, what: str, remedy: str):
        what, remedy = readable(what), readable(remedy)
        super().__init__(f"{what}. {remedy}.")
        self.what, self.remedy = what, remedy


def readable(text: str) -> str:
    """A text as one line that every terminal shows as it is; of a very long one the middle is left out."""
    text = UNREADABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return text if len(text) <= MOST else f"{text[: MOST // 2]} ... {text[-MOST // 2 + 5 :]}"


def first_line(error: BaseException) -> str:
    """What a library says, short enough for a sentence, without a closing full stop; its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
