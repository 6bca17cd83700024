"""Which proxy stands between this machine and a server, and which setting of the user's says so."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cogvideo_sat_env.base.address import Address

_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
CONFIGURED = "conda's or rattler's configuration (proxy_servers, [proxy-config])"


def proxy_of(url: str, configured: Mapping[str, str]) -> tuple[Address, str] | None:
    """Return the proxy that a request for `url` goes through and the setting that names it; None without one.

    `configured` are proxies by scheme, which the environment's go before.
    """
    import requests.utils  # loads slowly, and what is in the cache needs none of it

    environment = requests.utils.get_environ_proxies(url, no_proxy=None)
    proxy = requests.utils.select_proxy(url, {**configured, **environment})
    if not proxy:
        return None
    scheme = urlsplit(url).scheme
    for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"):
        if os.environ.get(name) == proxy:
            return Address(proxy if "://" in proxy else f"http://{proxy}"), name
    return Address(proxy), CONFIGURED


def is_usable(proxy: Address) -> bool:
    """Tell whether the address can be that of a proxy."""
    try:
        parts = urlsplit(proxy)
        return bool(parts.hostname) and parts.port != 0 and parts.scheme in _SCHEMES
    except ValueError:
        return False


def pip_proxy(settings: Mapping[str, str]) -> str | None:
    """Return the name of the setting that gives pip its proxy, if any; `settings` are pip's options by name."""
    if "proxy" in settings:
        return "PIP_PROXY" if os.environ.get("PIP_PROXY") else "pip's configuration (proxy)"
    found = proxy_of("https://index.invalid/", {})
    return found[1] if found else None


def lend_socks(folder: Path) -> dict[str, str]:
    """Put this program's SOCKS module into `folder` if the environment names a SOCKS proxy; return the variable for it.

    The Python that pip runs in has none of its own.
    """
    names = ("http_proxy", "https_proxy", "all_proxy", "pip_proxy")
    named = any(text.lower().startswith("socks") for name, text in os.environ.items() if name.lower() in names)
    found = importlib.util.find_spec("socks") if named else None
    if found is None or not found.origin:
        return {}
    shutil.copyfile(found.origin, folder / "socks.py")
    return {"PYTHONPATH": str(folder)}
