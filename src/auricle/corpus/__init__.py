"""What is there: names, labels, groups and splits. Nothing in here opens audio."""
