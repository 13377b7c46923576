"""Whether the studio answers, for a container's health check: python -m app.health"""

import sys
from urllib.request import urlopen

from app.__main__ import chosen_port
from pipelines.errors import UserError


def main() -> int:
    try:
        address = f"http://127.0.0.1:{chosen_port()}/healthz"
        with urlopen(address, timeout=5) as answer:
            print(answer.read().decode())
    except (OSError, UserError) as error:  # no answer, or one that says what is wrong
        print(f"The studio is not well: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
