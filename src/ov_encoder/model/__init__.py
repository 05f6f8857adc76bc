"""The encoder: config, rotary embedding, attention, weights by name."""
