"""What the package is measured against: other libraries, and plain restatements of public programs."""
