"""`satenv stage`: a release on a node. Python's standard library only, 3.9 or newer: nodes have no more."""
