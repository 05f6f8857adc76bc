"""Manifests, workers and shards: what feeds long jobs."""
