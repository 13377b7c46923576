"""Who may ask the studio, and what it never does for them."""

import asyncio
import hmac
import ipaddress
import socket
from collections.abc import Callable, Collection, MutableMapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

from fastapi.datastructures import Headers
from fastapi.responses import PlainTextResponse

WRONG_PASSWORD_SECONDS = 1.0  # so that nobody tries many


class Guard:
    """Refuses requests that name another host than this one, and those that another site's page sends.

    A website can make a visitor's browser ask this machine, under its own name (the request has its origin) or under a
    name that it lets point here (the request has that host). An address of numbers cannot be made to point elsewhere.

    Args:
        names: host names under which the studio is reached beside localhost and this machine's own name.
    """

    def __init__(self, app: Callable, names: Collection[str] = ()):
        self.app = app
        self.given = {name.lower() for name in names}
        own = socket.gethostname().lower()
        self.names = self.given | {"localhost", own, f"{own}.local"}

    async def __call__(self, scope: MutableMapping, receive: Callable, send: Callable) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            fault = self.fault(headers.get("host", ""), headers.get("origin"))
            if fault:
                return await PlainTextResponse(fault, 403)(scope, receive, send)
        return await self.app(scope, receive, send)

    def fault(self, host: str, origin: str | None) -> str:
        """What is wrong with a request's Host and Origin, in a sentence; empty if nothing is."""
        name = _name(f"//{host}")
        if not (name in self.names or _is_address(name)):
            return f"The studio is not known as {name or 'nothing'}. Start it with --names {name or 'NAME'}."
        # Behind a proxy the host may be the proxy's; the page's own name is then one of those that were given.
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower() and _name(origin) not in self.given:
            return "The studio does not answer other sites' pages."
        return ""


def _name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def is_loopback(address: str) -> bool:
    """Whether an address of numbers reaches this machine alone."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def check_password(password: str) -> Callable:
    """Gradio's login asks for a name too; any will do."""

    async def right(name: str, entered: str) -> bool:
        same = hmac.compare_digest(entered.encode(), password.encode())
        if not same:
            await asyncio.sleep(WRONG_PASSWORD_SECONDS)
        return same

    return right


async def _refuse(*_args: Any, **_settings: Any) -> NoReturn:
    raise ValueError("The studio opens no addresses. Upload the file itself.")


def shut_fetching() -> None:
    """Gradio opens addresses that a client names, in place of a file or as one; all of it goes through safehttpx."""
    from gradio.route_utils import safehttpx  # here: the command line imports this module before it says a word

    safehttpx.get = safehttpx.async_validate_url = _refuse
