"""What a run is told by: its report, its diagnosis, its status."""
