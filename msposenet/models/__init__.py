"""Networks: layers, HRNet, Multi-Stage HRNet, MSPN, HigherHRNet, classification, and the zoo that builds by name."""
