"""Masks that another system predicted, scored by this kit's metrics as a row of the results table.

python -m foodseg.evaluation.external FOLDER --protocol generate-then-segment   (`make score`)
"""
