"""Voices: enrol someone new, find out who speaks, verify a claim, judge verification on a list of trials."""
