"""What is in a lock or a prefix, for people and auditors: pages, diffs, SBOM, provenance, manifests."""
