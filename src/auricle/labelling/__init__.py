"""The listening page: play labelled clips and correct wrong labels."""
