"""`satenv verify`."""

from __future__ import annotations

import click

from cogvideo_sat_env.cli.options import JSON, UserPath, examples, say


@click.command(
    **examples("""
    satenv verify provenance.intoto.json --signers allowed_signers     the statement, and every file that it names
    satenv verify sat.pyz --signers allowed_signers                    a bundle: its signature, and every byte
    satenv verify conda-lock.yml --statement provenance.intoto.json --signers allowed_signers
    satenv verify provenance.intoto.json --identity WHO --issuer https://issuer.example.org
    """)
)
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=UserPath())
@click.option("--signers", type=UserPath(dir_okay=False), metavar="FILE",
              help="The allowed signers that you trust (man ssh-keygen).")  # fmt: skip
@click.option("--identity", metavar="WHO", help="Who of them must have signed; with --issuer, sigstore's identity.")
@click.option("--issuer", metavar="URL", help="The issuer of a sigstore identity, in place of --signers.")
@click.option("--statement", type=UserPath(dir_okay=False), metavar="FILE",
              help="The statement about FILE [FILE.intoto.json or provenance.intoto.json beside it].")  # fmt: skip
@JSON
def verify(files, signers, identity, issuer, statement, as_json) -> None:
    """Check who vouches for each FILE: that it is signed by a signer of yours, and has the bytes that were signed.

    Of a statement all files that it names are compared, and that what they were made from hasn't changed since.
    """
    from cogvideo_sat_env.bundle import provenance

    if (issuer is None) == (signers is None) or (issuer and not identity):
        raise click.UsageError("say who is trusted: --signers FILE, or --identity WHO with --issuer URL (sigstore)")
    trust = provenance.Trust(signers, identity, issuer)
    found = [provenance.verify(path, trust, statement) for path in files]
    say({"verified": [one.to_json() for one in found]}, "".join(one.to_text() for one in found), as_json)
