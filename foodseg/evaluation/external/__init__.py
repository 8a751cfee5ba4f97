"""Masks that another system predicted, scored by this kit's metrics as a row of the table."""
