"""The port that the studio listens on, without anything that is slow to import: a container's health check asks too."""

import os

from pipelines.errors import UserError


def chosen_port() -> int:
    """What JOINERY_PORT says, or 7860.

    Raises:
        UserError: it says no number.
    """
    port = os.environ.get("JOINERY_PORT") or "7860"
    if not port.isdecimal():
        raise UserError(f"JOINERY_PORT is {port!r}", "Set it to a port, for example 7860")
    return int(port)
