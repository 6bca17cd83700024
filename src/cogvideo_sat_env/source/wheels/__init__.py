"""The `wheels` source: a package index's wheels as a local conda channel, for sites that reach no conda channel."""
