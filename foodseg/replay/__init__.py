"""`make replay`: what trainings did, step by step, as one HTML file that asks no server."""
