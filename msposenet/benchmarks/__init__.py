"""Side-by-side figures: contenders that take turns in one run, on the same work, checked to give the same results."""
