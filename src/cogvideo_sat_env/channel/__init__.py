"""Channels: frozen metadata, and the solver over them."""
