"""Looking into a network while it runs: what each layer gives, or something else in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras


@contextlib.contextmanager
def tapped(layers: Sequence[keras.layers.Layer], tap: Callable[..., Any]) -> Iterator[None]:
  """Within, each call of the layers gives `tap(layer, output, args, keywords)` instead of its output."""
  # Past Keras' own attributes, which would make a list of what is set.
  before = {id(layer): vars(layer).get('call') for layer in layers}

  def standing_in(layer: keras.layers.Layer, call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **keywords: tap(layer, call(*args, **keywords), args, keywords)

  for layer in layers:
    vars(layer)['call'] = standing_in(layer, layer.call)
  try:
    yield
  finally:
    for layer in layers:
      earlier = before[id(layer)]
      if earlier is None:
        vars(layer).pop('call', None)
      else:
        vars(layer)['call'] = earlier
