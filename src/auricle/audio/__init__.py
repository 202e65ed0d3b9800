"""How clips sound: the only package that opens audio.

`containers` names what bytes hold, `decode` turns them into samples, `faults` says what is wrong with the samples,
`fingerprint` finds the same recording twice, `store` keeps decoded corpora, `synth` makes the demo corpus.
"""
