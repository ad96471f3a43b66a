"""Progress, plots and summaries."""
