"""The daemon's API: HTTP over a Unix socket, for whoever the kernel says is asking."""

from runnersd.server.app import Server, serve

__all__ = ["Server", "serve"]
