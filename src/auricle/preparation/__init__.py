"""From a path to training data: read, decode once, audit, split."""
