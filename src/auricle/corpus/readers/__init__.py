"""One file for each corpus layout. The listing of this folder is the registry; `corpus.reading` opens it on demand.

A reader exports TITLE (how the corpus is called), DESCRIBES (its layout in one line), LABEL_NAME (what a class is),
LICENSE, CITATION, `detects(tree)`, and `read(tree, *, options…)`: it yields clips and what it leaves out, in a fixed
order, and opens no audio. Optional: GROUP_NAME (what a group is); `remark(tree, *, options…)`: what was inferred;
and `bands(tree, *, options…)`: how wide the precomputed features are that take the place of sound.
"""
