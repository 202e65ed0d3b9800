"""One file per corpus layout. The listing of this folder is the registry; `corpus.read` imports its files on demand.

A reader exports TITLE (the corpus's name), DESCRIBES (its layout in one line), LABEL_NAME (what a class is), LICENSE,
CITATION, `detects(tree)`, and `read(tree, *, options…)`, which yields clips and what it excludes, in a fixed order, and
opens no audio. Optional: GROUP_NAME (what a group is), and with the arguments of `read`: `note` (what was inferred),
`has_labels` (False where `--label` must name the label's column), `used_columns` (the field of each used column) and
`num_features` (width of precomputed features).
"""
