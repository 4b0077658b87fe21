"""The `gnnsoup` command, a file for each of its commands."""
