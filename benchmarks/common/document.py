"""Tables of results, and their places in a document: between two comments that name each."""


def table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def put(text: str, **contents: str) -> str:
    """A document with the contents between their comments made anew.

    Raises:
        ValueError: the document has no such place.
    """
    for name, content in contents.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"The document has no place for {name!r}: {begin} and {end}")
        text = f"{before}{begin}\n{content}\n{end}{after}"
    return text
