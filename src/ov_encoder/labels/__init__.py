"""Labels: teacher features, k-means, assignment, deduplication, OCR tags. Nothing here trains a model."""
