"""Does an address answer, and if not, why?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cogvideo_sat_env.base.address import Address, local_path
from cogvideo_sat_env.base.errors import InputError

if TYPE_CHECKING:
    from cogvideo_sat_env.fetch.session import Sessions

PROBE_SECONDS = 10  # a channel that takes longer to say that a file is there doesn't answer


def why_unreachable(url: str | Address) -> str | None:
    """Ask for the first byte of `url`; return None when it is there, else the reason in words.

    It waits for PROBE_SECONDS. Asked as every file is: with the user's proxies, certificates and credentials, at a
    mirror that rattler's configuration names for it.
    """
    from cogvideo_sat_env.fetch.session import Sessions  # the HTTP client loads slowly

    sessions = Sessions()
    reasons = [_ask(sessions, place) for place in sessions.places(Address(url))]
    return None if None in reasons else reasons[0]


def _ask(sessions: Sessions, url: Address) -> str | None:
    import requests

    from cogvideo_sat_env.fetch.transfer import phrase, reason

    if url.startswith("file:"):
        return None if local_path(url).is_file() else "no such file"
    try:
        with sessions.get(url, {"Range": "bytes=0-0"}, PROBE_SECONDS, PROBE_SECONDS) as answer:
            return None if answer.ok else f"answers {phrase(answer)}"
    except requests.Timeout:
        return f"no answer in {PROBE_SECONDS:g} s"
    except (requests.RequestException, ValueError) as error:
        if isinstance(error, InputError):
            raise
        proxy = sessions.proxy(url)
        return f"{reason(error)}; through the proxy {proxy[0]}, which {proxy[1]} names" if proxy else reason(error)
