"""What users read of a run: its report, its diagnosis, its status."""
