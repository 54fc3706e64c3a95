"""The command line: one file a verb. Nothing here is imported by the library."""
