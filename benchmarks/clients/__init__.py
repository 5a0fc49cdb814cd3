"""The clients that are measured, a script each."""
