"""Masks that another system predicted, scored by this kit's metrics as a row of the results table.

    python -m foodseg.evaluation.external FOLDER --protocol generate-then-segment   (`make score`)

A folder, not `evaluation/external.py`: what stands in `evaluation/` itself decides scores, and a
change there makes every finished run of the ablation table stale.
"""
