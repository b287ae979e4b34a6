"""The process environment, set before TensorFlow is imported."""

import os

# On a TPU host, importing jax changes these two, which belong to TensorFlow's own TPU runtime.
_CHANGED_BY_JAX = ('LIBTPU_INIT_ARGS', 'TPU_SKIP_MDS_QUERY')


def prepare() -> None:
  """Keeps jax (which Keras and Orbax import) off the accelerators, and TensorFlow's start-up chatter off stderr.

  Variables that the user has set are left as they are. Importing jax here, once, lets us put back what its import
  changes on a TPU host.
  """
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  os.environ.setdefault('KERAS_BACKEND', 'tensorflow')
  before = {name: os.environ.get(name) for name in _CHANGED_BY_JAX}
  import jax  # noqa: F401  (imported for the side effect that is undone below)

  for name, value in before.items():
    if value is None:
      os.environ.pop(name, None)
    else:
      os.environ[name] = value
