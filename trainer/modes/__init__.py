"""What the program does with a session, one mode a file; the table stands in trainer/main.py."""
