"""Pictures of runs, to keep or to send: as SVG, PNG and HTML, and in a notebook."""
