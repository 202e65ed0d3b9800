"""From files to samples: the only package that opens audio.

`sniff` detects file formats by content, `decode` and `stream` turn content into samples, `frames` opens precomputed
features, `quality` finds problems, `fingerprint` finds duplicates, `store` holds decoded corpora, `synth` generates the
demo corpus.
"""

# The int16 value of full scale: 1.0 in float samples.
FULL_SCALE = 32768.0
