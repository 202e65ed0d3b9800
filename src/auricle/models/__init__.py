"""The models: waveforms in, logits out."""
