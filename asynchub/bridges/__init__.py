"""Hubs of several processes and machines: events carried between them, control from afar, reduction over ranks."""
