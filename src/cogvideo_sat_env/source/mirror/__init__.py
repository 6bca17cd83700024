"""A local mirror of a lock: its channels with just its records, and a wheelhouse."""
