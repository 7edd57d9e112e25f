"""Dual encoders: a picture and a text become vectors of one space (CLIP)."""
