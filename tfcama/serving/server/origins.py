"""Which web pages may ask: browsers send the requests of any page that their user has open."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from tfcama.errors import InputError

_SCHEMES = ("http", "https")


class Origins:
    """The server's own page, under names that nobody else can claim, and what is allowed besides.

    That Origin and Host agree is not enough: whoever owns a domain may let it point to 127.0.0.1
    once a page of it was loaded (DNS rebinding), and browsers then take the server for the page's
    own. An address, localhost and this machine's name are not theirs to point anywhere.

    Args:
      allowed: origins, `scheme://host[:port]`, whatever their Host: those of a proxy, say.

    Raises:
      InputError: one of them is no origin.
    """

    def __init__(self, allowed: Collection[str] = ()):
        self._allowed = {_checked(origin) for origin in allowed}
        self._names = {"localhost", *_names_of_this_machine()}

    def may_ask(self, origin: str | None, host: str) -> bool:
        """Whether a request's headers Origin (None where no page sent it) and Host are fine."""
        if origin is None or origin.lower() in self._allowed:
            return True
        scheme, _, place = origin.lower().partition("://")
        return scheme in _SCHEMES and place == host.lower() and self._is_ours(place)

    def _is_ours(self, place: str) -> bool:
        try:
            name = urlsplit(f"//{place}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _is_address(name)


def _checked(origin: str) -> str:
    scheme, _, place = origin.lower().partition("://")
    try:
        parts = urlsplit(f"//{place}")
        fits = scheme in _SCHEMES and parts.hostname and parts.netloc == place and "@" not in place
        fits = fits and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
    if not fits:
        raise InputError(
            f"origin '{origin}' was given; http://HOST, https://HOST or either with :PORT is "
            "allowed, without a path."
        )
    return f"{scheme}://{place}"


def _names_of_this_machine() -> set[str]:
    full = socket.gethostname().lower()
    return {full, full.partition(".")[0]} - {""}


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
