"""State on disk: saved in the background, verified when read, kept and collected by rules of our own.

`Checkpoints` is the door. Orbax writes and reads the arrays (orbax_io.py, the only module that names it); a manifest of
ours (manifest.py) says which bytes make a step complete; disk.py makes them durable; retention.py says what to delete.
"""

from trainer.checkpoint.checkpoints import Checkpoints, Restored
from trainer.checkpoint.compatible import check_compatible
from trainer.checkpoint.errors import CheckpointError, DamagedCheckpoint, NoSuchCheckpoint

__all__ = ['CheckpointError', 'Checkpoints', 'DamagedCheckpoint', 'NoSuchCheckpoint', 'Restored', 'check_compatible']
