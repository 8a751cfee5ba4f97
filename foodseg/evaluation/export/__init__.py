"""FoodReasonSeg-Single in the layouts that LISA's and FoodLMM's own code reads, and a plain one."""
