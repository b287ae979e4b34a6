"""`python -m trainer`."""

from trainer.main import entry

entry()
