"""Measures dploylib beside hand-written loops and other libraries. See README.md."""
