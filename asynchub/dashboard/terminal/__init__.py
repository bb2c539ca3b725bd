"""A run in a terminal: the same facts as on the page, drawn with letters."""
