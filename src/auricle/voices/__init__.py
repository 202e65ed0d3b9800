"""Speaker verification: enrol a voice, identify a speaker, verify a claim, evaluate an encoder on a list of trials."""
