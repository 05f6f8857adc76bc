"""Signals straight from H.264 and HEVC bits: our own parser in C (csrc/), and its Python side. No pixel is decoded."""
