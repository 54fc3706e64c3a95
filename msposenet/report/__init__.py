"""Pages and tables for people, made of what the other packages found."""
