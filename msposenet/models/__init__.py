"""Networks: layers, HRNet, Multi-Stage HRNet, and the zoo that builds them by name."""
