"""Layers that the families share. Each works on real frames only, so padding changes no answer."""
