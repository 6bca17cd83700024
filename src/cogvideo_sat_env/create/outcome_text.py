"""What `satenv create` and `satenv update` did, in words."""

from __future__ import annotations

from collections import Counter

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.progress import human_bytes
from cogvideo_sat_env.install import activation
from cogvideo_sat_env.install.outcome import InstallOutcome

SHOWN = 5  # of a list, where all of it is in the JSON


def outcome_text(outcome: InstallOutcome) -> str:
    """Return the outcome for people."""
    if outcome.status == "up-to-date":
        if outcome.seconds:  # every byte was compared
            return f"{outcome.prefix} is as it should be ({outcome.packages} packages, {outcome.files:,} files)\n"
        packages = f"{outcome.packages} packages, from {outcome.source}"
        return f"{outcome.prefix} is up to date ({packages}); nothing to do\n"
    lines = []
    if outcome.report:
        from cogvideo_sat_env.doctor.command import report_text

        lines += [report_text(outcome.report).rstrip(), ""]
    lines += [f"not provided by wheels: {item['spec']} ({item['reason']})" for item in outcome.not_provided]
    if outcome.link_scripts:
        lines.append(f"link scripts were not run: {', '.join(outcome.link_scripts)}")
    if outcome.link_scripts_run:
        lines.append(f"link scripts were run, as allowed: {', '.join(outcome.link_scripts_run)}")
    lines += [f"two packages ship the same file: {collision}" for collision in outcome.collisions]
    lines.append(
        f"{outcome.prefix}: {outcome.status} from {outcome.source}, {outcome.packages} packages, "
        f"{human_bytes(outcome.bytes)}, {outcome.files:,} files, {sum(outcome.seconds.values()):.0f} s"
    )
    if outcome.status == "repaired":
        return "\n".join([*lines, *_repaired(outcome)]) + "\n"
    if outcome.kept:
        undo = satenv("undo -p", outcome.prefix)
        lines.append(f"What was there before is kept: {undo} (or --forget to free its space)")
    lines += ["", "Activate it with:", activation.activation_command(outcome.prefix)]
    return "\n".join(lines) + "\n"


def _repaired(outcome: InstallOutcome) -> list[str]:
    """Return what was put right, summed up by reason where it is much."""
    if len(outcome.repaired) <= SHOWN:
        lines = [f"put right: {entry}" for entry in outcome.repaired]
    else:
        reasons = Counter(entry.rpartition(" (")[2].rstrip(")") for entry in outcome.repaired)
        lines = [f"put right: {count:,} files ({reason})" for reason, count in reasons.most_common(SHOWN)]
        if len(reasons) > SHOWN:
            lines.append(f"put right: {sum(reasons.values()) - sum(c for _, c in reasons.most_common(SHOWN)):,} others")
        lines.append(f"e.g. {', '.join(outcome.repaired[:2])}; all of them: --json")
    kept = [name for name in outcome.added if not name.endswith(" (pip)")]
    if kept:
        lines.append(f"added since by conda, and kept: {', '.join(kept)}")
    if outcome.aside:
        pip = ", ".join(name for name in outcome.added if name not in kept)
        what = f"{pip + '; ' if pip else ''}{len(outcome.aside):,} files, e.g. {outcome.aside[0]}"
        lines.append(f"not in the lock, and moved to {outcome.aside_folder}: {what}")
    if outcome.unowned:
        more = len(outcome.unowned) - SHOWN
        shown = ", ".join(outcome.unowned[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
        lines.append(f"of no package, and kept: {shown}")
    return lines
