"""What is wanted, as people write it: environment.yml, variants, floors, the breakage ledger, PyPI names."""
