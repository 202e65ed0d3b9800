"""Answers from trained models: whole files, hours of audio, live streams."""
