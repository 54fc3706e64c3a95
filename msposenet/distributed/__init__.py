"""One training on many machines: roles, the control channel between processes, the exchange of gradients."""
