"""What is in a bundle, and what differs between two, for people and for scripts. Python's standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.progress import human_bytes
from cogvideo_sat_env.bundle.container import Bundle
from cogvideo_sat_env.bundle.verify_bundle import verify
from cogvideo_sat_env.report import signature


def describe(bundle: Bundle) -> tuple[dict[str, Any], str]:
    """Return what the bundle holds and needs: as values with stable keys, and as text."""
    manifest = bundle.manifest
    groups: dict[str, list[int]] = {}
    for member in bundle.members.values():
        count_size = groups.setdefault(member.path.partition("/")[0], [0, 0])
        count_size[0] += 1
        count_size[1] += member.size
    found = {
        "bundle": str(bundle.path), "id": bundle.id, "tool_version": manifest["tool_version"],
        "source": manifest["source"], "made": manifest.get("made", 0),
        "bytes": manifest["data_size"] + len(bundle.tail),
        "volumes": [volume["name"] for volume in manifest["volumes"]], "base": manifest["base"],
        "tail_offset": bundle.path.stat().st_size - len(bundle.tail),
        "variants": {
            name: {
                "platform": part["platform"], "lock": part["lock"], "lock_sha256": part["lock_sha256"],
                "conda": len(part["conda"]), "pip": len(part["pip"]), "installed_bytes": part["installed_bytes"],
                "python": part["python"],
            }
            for name, part in sorted(manifest["parts"].items())
        },
        "tool": sorted(manifest["tool"]["wheels"]),
        "members": {name: {"files": n, "bytes": size} for name, (n, size) in sorted(groups.items())},
    }  # fmt: skip
    lines = [f"{bundle.name}  {human_bytes(found['bytes'])}  manifest SHA-256 {bundle.id}"]
    if manifest["base"]:
        lines.append(f"a delta: applies only on top of {manifest['base']['name']} ({manifest['base']['id']})")
    lines += [f"volume {name}" for name in found["volumes"]]
    for name, part in found["variants"].items():
        lines.append(
            f"{name}: {part['conda']} conda packages, {part['pip']} pip files; needs "
            f"{human_bytes(part['installed_bytes'])} on the disk" + (f"; {part['python']}" if part["python"] else "")
        )
    lines.append(f"runs with Python: {', '.join(found['tool'])}")
    lines += [f"{name:<12} {n['files']:>5} files  {human_bytes(n['bytes']):>9}" for name, n in found["members"].items()]
    return found, "\n".join(lines)


def prove(
    bundle: Bundle, signers: Path | None, identity: str | None, seen: Callable[[int], None] = lambda _: None
) -> tuple[dict[str, Any], str]:
    """Check who signed the bundle, where `signers` are named, and every byte; return that all is right.

    `seen` as in verify. Raises what signature.check and verify raise.
    """
    signer = signature.check(bundle.path, bundle.tail, signers, identity) if signers else None
    start = time.perf_counter()
    size = verify(bundle, seen=seen)
    found = {
        "bundle": str(bundle.path), "id": bundle.id, "members": len(bundle.members), "bytes": size,
        "signed_by": signer, "seconds": round(time.perf_counter() - start, 3), "exit_code": 0,
    }  # fmt: skip
    signed = f", signed by {signer}" if signer else ""
    members = f"{len(bundle.members)} members, {human_bytes(size)}"
    return found, f"{bundle.name}: {members}: every byte as in its manifest{signed}"


def compare(old: Bundle, new: Bundle) -> tuple[dict[str, Any], str]:
    """Return what `new` has and `old` has not, and the other way round."""
    before, after = old.members, new.members
    added = sorted(path for path in after if path not in before)
    removed = sorted(path for path in before if path not in after)
    changed = sorted(p for p in after if p in before and after[p].sha256 != before[p].sha256)
    known = {member.sha256 for member in before.values()}
    size = sum(member.size for member in {m.sha256: m for m in after.values()}.values() if member.sha256 not in known)
    found = {
        "old": old.id, "new": new.id, "added": added, "removed": removed, "changed": changed, "new_bytes": size
    }  # fmt: skip
    lines = [f"+ {path}" for path in added] + [f"- {path}" for path in removed] + [f"~ {path}" for path in changed]
    lines.append(f"{len(added)} added, {len(removed)} removed, {len(changed)} changed; {human_bytes(size)} are new")
    return found, "\n".join(lines)
