"""How a training scales over machines: measured on this one, predicted for others."""
