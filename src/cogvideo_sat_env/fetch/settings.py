"""The network's settings that conda's users have written down: rattler's configuration (pixi has the same), .condarc.

What the environment says (HTTPS_PROXY, REQUESTS_CA_BUNDLE, …) wins over both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.errors import InputError


@dataclass(frozen=True)
class Settings:
    """`proxies` by scheme; `verify` as requests takes it, None where nobody says; `mirrors` by what they replace."""

    proxies: Mapping[str, str] = field(default_factory=dict)
    verify: str | bool | None = None
    mirrors: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def places(self, url: Address) -> tuple[Address, ...]:
        """Return where `url` is to be asked for: at its mirrors, where there are some, else at itself.

        A file of this machine is never asked for elsewhere.
        """
        for original, mirrors in self.mirrors.items():
            base = Address(original.rstrip("/"))
            if mirrors and url.startswith(f"{base}/") and not url.startswith("file:"):
                return tuple(Address(mirror) / url[len(base) + 1 :] for mirror in mirrors)
        return (url,)


def read_settings() -> Settings:
    """Read both. Raises InputError, naming the file and nothing of its content, when one can't be read."""
    ours, theirs = _rattler(), _condarc()
    proxies = {**theirs.proxies, **ours.proxies}
    return Settings(proxies, theirs.verify if ours.verify is None else ours.verify, ours.mirrors)


def _rattler() -> Settings:
    from rattler.config import Config
    from rattler.exceptions import ConfigError

    files = [str(path) for path, _ in Config.config_search_paths("rattler") if path.is_file()]
    if not files:
        return Settings()
    try:
        found = Config.load_from_files([*files])
    except ConfigError:
        raise InputError(f"{', '.join(files)}: can't be used as rattler's configuration", "correct it") from None
    proxies = {"http": found.proxy_http, "https": found.proxy_https}
    verify = False if found.tls_no_verify else None
    return Settings({scheme: str(url) for scheme, url in proxies.items() if url}, verify, found.mirrors)


def _condarc() -> Settings:
    home = Path(os.path.expanduser("~"))
    named = os.environ.get("CONDARC")
    for path in [Path(named)] if named else [home / ".condarc", home / ".conda" / ".condarc"]:
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeError, yaml.YAMLError) as error:
            raise InputError(f"{path}: can't be read ({type(error).__name__})", "correct or remove it") from None
        if isinstance(found, dict):
            proxies, verify = found.get("proxy_servers") or {}, found.get("ssl_verify")
            return Settings(
                {str(scheme): str(url) for scheme, url in proxies.items()} if isinstance(proxies, dict) else {},
                verify if isinstance(verify, bool) or (isinstance(verify, str) and verify != "truststore") else None,
            )
    return Settings()
