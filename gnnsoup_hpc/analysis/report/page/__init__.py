"""A run, or several, as one HTML page that needs nothing else: `gnnsoup report RUN --html`."""
