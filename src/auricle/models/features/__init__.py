"""Fixed features of audio, and the ridge classifier that is fitted on them in closed form."""
