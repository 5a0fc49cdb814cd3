"""The servers that are measured, a script each."""
