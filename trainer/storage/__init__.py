"""Runs that are kept in a bucket: the program works on a local copy; this room knows what goes there, and when."""
