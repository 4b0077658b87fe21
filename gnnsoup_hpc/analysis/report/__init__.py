"""What came of a run: report.h5, the table, and the verdicts in words."""
