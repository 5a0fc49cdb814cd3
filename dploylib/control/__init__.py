"""What a running service tells of itself, to whom, and how it is told what to do."""

from .source import Health, Source

__all__ = ["Health", "Source"]
