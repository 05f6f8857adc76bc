"""Opening media safely, decoding, and reading what the stream says about each block."""
