"""How clips sound: the only package that opens audio.

`containers` names what bytes hold, `decode` turns them into samples, `frames` opens precomputed features that take the place of
sound, `faults` says what is wrong, `fingerprint` finds the same recording twice, `store` keeps decoded corpora, `synth`
makes the demo corpus.
"""
