"""Networks as symbols with their values: traced, simplified, fused for the CPU, quantised."""
