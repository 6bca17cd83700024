"""cogvideo-sat-env: a proven environment for fine-tuning CogVideoX with SAT."""

__version__ = "0.1.0"
