"""What another system answered, masks or completions, scored by this kit's metrics as rows."""
