"""The listening page: play labelled clips, correct wrong labels."""
