"""Traces in this process."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_hooks_in_children(monkeypatch):
    """A provider of the SDK has a hook called in each child that is forked from now on: for all tests that follow.

    Where the standard library is patched, greenlets of this process would run in such a child.
    """
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
