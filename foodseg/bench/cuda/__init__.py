"""`python -m foodseg.bench.cuda`: the benchmark's part that needs a GPU."""
