"""Stands in for `wandb` in the GPU proof: SAT imports it, and no check logs with it."""


def __getattr__(name: str) -> object:
    """Refuse: nothing of the real one is here."""
    raise AttributeError(f"wandb.{name}: this is the GPU proof's stand-in for `wandb`: install the real one")
