"""`satenv attest`."""

from __future__ import annotations

import json

import click

from cogvideo_sat_env.cli.options import JSON, UserPath, examples, say


@click.command(
    **examples("""
    satenv attest --sign ~/.ssh/id_ed25519             the project's locks and rendered files
    satenv attest sat.pyz channel -o dist/provenance.intoto.json --sign key     a bundle and a channel, too
    satenv attest --sigstore                           in a workflow, with its identity
    satenv verify provenance.intoto.json --signers allowed_signers
    """)
)
@click.argument("files", metavar="[FILE|CHANNEL]…", nargs=-1, type=UserPath())
@click.option("-o", "--out", type=UserPath(dir_okay=False), metavar="FILE",
              help="The statement [provenance.intoto.json in the project].")  # fmt: skip
@click.option("--sign", "key", type=UserPath(dir_okay=False), metavar="KEY",
              help="Sign it with this OpenSSH private key: FILE.sig.")  # fmt: skip
@click.option("--sigstore", is_flag=True, help="Sign it by sigstore's services: FILE.sigstore.json.")
@JSON
def attest(files, out, key, sigstore, as_json) -> None:
    """State from which spec, ledger, metadata and tools the locks, and the FILEs, were made: an in-toto statement.

    The same files give the same bytes. Bundles, the folders of channels and any other files may be named.
    """
    from cogvideo_sat_env.base.paths import project_root
    from cogvideo_sat_env.bundle import provenance
    from cogvideo_sat_env.report import signature
    from cogvideo_sat_env.report import sigstore as by_identity

    root = project_root()
    out = out or root / provenance.DEFAULT
    content = provenance.attest(root, files, out)
    signed = [signature.sign(out, content, key, signature.STATEMENT)] if key else []
    signed += [by_identity.sign(out)] if sigstore else []
    subjects = len(json.loads(content)["subject"])
    names = ", ".join(str(path) for path in signed) or "nothing: --sign KEY signs it"
    found = {"statement": str(out), "subjects": subjects, "signatures": [str(path) for path in signed]}
    say(found, f"wrote {out}: {subjects} subjects; signed: {names}", as_json)
