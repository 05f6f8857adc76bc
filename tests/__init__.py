"""Tests mirror src/: tests/<room>/test_x.py. Generated media live in tests/clips.py and tests/odd_media.py."""
