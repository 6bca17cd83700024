"""What pip printed, as one of this program's errors."""

from __future__ import annotations

import re

from cogvideo_sat_env.base.errors import MissingToolError, PrefixError, SatenvError, SolveError, SourceError
from cogvideo_sat_env.base.errors import VerificationError as Wrong
from cogvideo_sat_env.fetch.pip_config import pip_options
from cogvideo_sat_env.fetch.proxies import pip_proxy
from cogvideo_sat_env.fetch.redact import redact

INDEX = "the configured package index"
_CHECK = "check the network and pip's configuration (`pip config list`, PIP_INDEX_URL, proxies)"
_OTHER_BYTES = "the index, or a proxy on the way, serves other bytes than were locked: try another (PIP_INDEX_URL)"
_HASHES = re.compile(
    r"(?:^\s*(?P<what>\S.*?)(?: from \S.*)?:\n)?\s*Expected (?:or )?sha256 (?P<expected>[0-9a-f]{64}).*?"
    r"Got\s+(?P<found>[0-9a-f]{64})",
    re.MULTILINE | re.DOTALL,
)
_UNREACHABLE = re.compile(
    r"connection error: .*?(?= - skipping|$)|ProxyError\(.*|NameResolutionError\(.*|NewConnectionError\(.*|"
    r"SSLError\(.*|Failed to establish a new connection.*|ConnectTimeout.*|ReadTimeout.*|Read timed out.*|"
    r"Max retries exceeded.*|(?i:connection (?:broken|reset|refused|error)).*|Name or service not known|"
    r"Temporary failure in name resolution|There was a problem confirming the ssl certificate.*",
    re.MULTILINE,
)


def pip_error(output: str, doing: str, *, where: str = INDEX, wrong: str = _OTHER_BYTES) -> SatenvError | None:
    """Return the error that `output` tells of; None when pip isn't what failed.

    `doing` says for people what failed, `where` the files come from, `wrong` what to do about wrong bytes.
    VerificationError (wrong bytes, or not all), SourceError (not reached, refused, no such file), SolveError (bounds
    conflict), PrefixError (no space), MissingToolError (no pip), SatenvError (a build failed).
    """
    if re.search(r"No module named '?pip", output):
        return MissingToolError(f"{doing}: that Python has no pip", "give it pip")
    if "No space left on device" in output:
        return PrefixError(f"{doing}: no space left on the device", "free some space, or set SATENV_CACHE")
    if hashes := _HASHES.search(output):
        what = f"{hashes['what']}: " if hashes["what"] else ""
        return Wrong(f"{doing}: {what}expected SHA-256 {hashes['expected']}, found {hashes['found']}; {where}", wrong)
    if "DO NOT MATCH THE HASHES" in output:
        return Wrong(f"{doing}: {last_words(output)}; {where}", wrong)
    if "subprocess-exited-with-error" in output or "metadata-generation-failed" in output:
        return SatenvError(
            f"{doing}: can't be built: {last_words(output)}",
            "what the build needs must be in environment.yml; the environment's own compiler and setuptools are used",
        )
    if re.search(r"^ERROR: .*(?:ResolutionImpossible|conflicting dependencies)", output, re.MULTILINE):
        reason = "\n".join(line for line in output.splitlines() if line.strip() and not line.startswith("WARNING"))
        return SolveError(f"{doing}: pip finds no solution:\n{reason[-2000:]}", "change the bound that pip names")
    if refused := re.search(r"too many (\d+) error responses", output):
        return SourceError(
            f"{doing}: {where} answers {refused[1]} again and again",
            "run it again later (what is complete is kept), or use another index (PIP_INDEX_URL)",
        )
    missing = re.search(r"No matching distribution found for ([^\s;(]+(?: ?[<>=!~]=?[^\s;(]+)*)", output)
    name = f" (wanted: {missing[1]})" if missing else ""
    if unreachable := _UNREACHABLE.search(output):
        if re.search(r"(?i)proxy|SOCKS", output) and (setting := pip_proxy(pip_options("proxy"))):
            return SourceError(
                f"{doing}: {where} can't be reached through the proxy that {setting} names: "
                f"{redact(unreachable[0])[:400]}{name}",
                f"correct or unset {setting}; what is to be asked without a proxy goes into NO_PROXY",
            )
        return SourceError(f"{doing}: {where} can't be reached: {redact(unreachable[0])[:400]}{name}", _CHECK)
    if status := re.search(r"\b(?!404)([45]\d\d) (?:Client|Server) Error[^\n]*", output):
        return SourceError(f"{doing}: {where} answers {redact(status[0])}{name}", _CHECK)
    if missing or "404 Client Error" in output:
        return SourceError(
            f"{doing}: {where} has no file for {missing[1] if missing else 'it'} that fits this Python and platform",
            "check the name and pip's index-url; a mirror may lack it",
        )
    if "incomplete-download" in output or "IncompleteRead" in output:
        return Wrong(f"{doing}: truncated download: {last_words(output)}", "run it again")
    return None


def last_words(output: str) -> str:
    """Return the end of what pip printed, its errors before anything else, without secrets."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("WARNING: ")]
    errors = [line for line in lines if line.startswith(("ERROR", "error"))] or lines
    return redact(" / ".join(errors[-3:]))[-600:]
