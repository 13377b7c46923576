"""The command line of the base model's making: python -m training.base data"""

import logging
import sys
import time

import tyro

from pipelines.errors import UserError
from training.__main__ import INTERRUPTED, INVALID


def data(unseen: bool = False) -> None:
    """Download the pinned packages, render all pictures, check their SHA-256.

    Args:
        unseen: the share-alike sets, which only benchmarks look at, in place of the others.
    """
    from training.base import data

    began = time.monotonic()
    sha256 = data.build("unseen" if unseen else "pictures")
    pictures = data.load("unseen" if unseen else "pictures")
    contents, styles = (len({pair[i] for pair in pictures.pairs}) for i in (0, 1))
    print(f"{len(pictures.pairs)} pictures of {contents} contents in {styles} styles, {time.monotonic() - began:.0f} s")
    print(f"SHA-256 of their pixels: {sha256}, as expected")


COMMANDS = {"data": data}


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("joinery").setLevel(logging.INFO)
    try:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m training.base", description=__doc__)
    except UserError as error:
        print(error, file=sys.stderr)
        return INVALID
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
