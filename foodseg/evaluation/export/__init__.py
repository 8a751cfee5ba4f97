"""FoodReasonSeg-Single in the layouts that LISA's and FoodLMM's own code reads.

A folder, not `evaluation/export.py`: what stands in `evaluation/` itself decides scores, and a
change there makes every finished run of the ablation table stale.
"""
