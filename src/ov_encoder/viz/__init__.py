"""Pictures: overlays, plots and self-contained HTML reports."""
