"""A trained model on examples that are in no dataset: files, lines, another program's tensors."""
