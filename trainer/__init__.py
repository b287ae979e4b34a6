"""A training harness for Keras models under tf.distribute. Start reading at trainer/main.py."""

from trainer.runtime import environment as _environment

# Before anything imports TensorFlow: its Keras imports jax, which would otherwise take the accelerator.
_environment.prepare()

__version__ = '0.1.0'
