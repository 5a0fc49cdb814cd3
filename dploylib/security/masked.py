"""Secrets that do not show themselves: they are what they are, and print as `***`.

No encoder of msgspec takes them, so that no JSON is made of what has one in it.
"""

from __future__ import annotations

__all__ = ["MASK", "MaskedBytes", "MaskedText"]

MASK = "***"


class _Masked:
    __slots__ = ()

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)


class MaskedText(_Masked, str):
    """A password. To get it in a form that is shown, one has to ask: `encode()`."""

    __slots__ = ()

    def __new__(cls, text: str) -> MaskedText:
        """The text, masked. To `str` what is masked already would be the mask."""
        return text if isinstance(text, cls) else super().__new__(cls, text)


class MaskedBytes(_Masked, bytes):
    """A secret key. To get it in a form that is shown, one has to ask: `decode()`."""

    __slots__ = ()
