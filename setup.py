"""For tools that look for a setup.py. Everything is in pyproject.toml."""

from setuptools import setup

setup()
