"""Runs in a web browser: a server on this machine, and the page that it serves."""
