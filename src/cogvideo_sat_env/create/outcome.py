"""What `satenv create` and `satenv update` did, in words."""

from __future__ import annotations

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
    lines = [f"put right: {entry}" for entry in outcome.repaired[:SHOWN]]
    more = len(outcome.repaired) - SHOWN
    return [*lines, f"put right: {more:,} more (all of them: --json)"] if more > 0 else lines
