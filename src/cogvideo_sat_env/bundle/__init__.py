"""Air-gap bundles: one file with channels, wheelhouse, locks and the tool itself; byte-identical for the same input.

BUNDLE.pyz = DATA TAIL
  DATA  a tar archive of all members; in volumes BUNDLE.pyz.v01, .v02, … where one file is too large for the medium.
        Its first line is Python's only word on a file that is cut (front.py)
  TAIL  a zip archive that Python runs: manifest.json (every member's place, size and SHA-256) and the modules that
        need only Python's standard library: container, manifest, verify, unpack_tool, front, start

`python3 BUNDLE.pyz` works because Python takes the zip archive from the end of a file; `tar tf` reads the front.
A signature is over the tail: with the manifest it stands for every byte (report/signature.py, in the tail, too).
"""
