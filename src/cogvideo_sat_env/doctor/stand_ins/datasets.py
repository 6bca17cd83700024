"""Stands in for `datasets` in the GPU proof: SAT imports it, and no check loads a data set with it."""


def load_dataset(*args: object, **kwargs: object) -> None:
    """Refuse: nothing of the real one is here."""
    raise RuntimeError("this is the GPU proof's stand-in for `datasets`: install the real one")
