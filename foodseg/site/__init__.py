"""`make site`: notebooks, pages, tables and the API of the core as one static site."""
