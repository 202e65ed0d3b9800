"""One file for each corpus layout. The listing of this folder is the registry; `corpus.reading` opens it on demand.

A reader exports LICENSE, CITATION, DESCRIBES (the layout in one line), TITLE (how the corpus is called), LABEL_NAME
(what a class is), `detects(tree)` and `read(tree, *, options…)`, which yields clips and what it leaves out, in a fixed order,
and never opens audio. Optional: GROUP_NAME (what a group is) and `remark(tree, *, options…)`, what was inferred.
"""
