"""Services as long-running daemons."""

__all__: list[str] = []
