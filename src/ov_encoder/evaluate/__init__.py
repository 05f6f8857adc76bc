"""Evaluation: frozen features, probes on them, rivals under the same protocol, and the study that compares them."""
