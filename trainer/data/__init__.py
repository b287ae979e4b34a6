"""What we learn from: datasets, the order of their examples, and the input pipeline of a run.

Start at pipeline.py. order.py decides which examples form a batch, source.py says where they lie, memory.py and
lanes.py bring them.
"""
