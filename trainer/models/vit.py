"""Vision transformer: Dosovitskiy et al., An Image is Worth 16x16 Words, 2021.

Sizes are those of Steiner et al., How to Train Your ViT, 2022, table 2. Mean pooling, fixed positions and a plain
linear head make it the baseline of Beyer et al., Better Plain ViT Baselines for ImageNet-1k, 2022; stochastic depth
rises linearly from block to block, as in Steiner et al., section 3.3. The gelu is the exact one.

Dimensions: B batch, H height, W width, C channels, T tokens, D model width.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, at_least, fraction, one_of
from trainer.models import parts, remat
from trainer.models.attention import Attention

# size: (layers, model width, heads); the hidden layer of a block is four times as wide as the model
SIZES: dict[str, tuple[int, int, int]] = {
  'Ti': (12, 192, 3),
  'S': (12, 384, 6),
  'B': (12, 768, 12),
  'L': (24, 1024, 16),
}
_EXPANSION = 4
EPSILON = 1e-6
# The longest wavelength of the fixed positions (Vaswani et al., 2017, section 3.5).
_TEMPERATURE = 10_000.0

FIELDS: dict[str, Field] = {
  'size': Field('S', 'layers, width and heads', one_of(*SIZES), fixed=True),
  'layers': Field(0, 'blocks; 0: as many as the size has', at_least(0), fixed=True),
  'width': Field(0, 'width of a token; 0: that of the size', at_least(0), fixed=True),
  'heads': Field(0, 'attention heads, which share the width; 0: as many as the size has', at_least(0), fixed=True),
  'patch_size': Field(16, 'height and width of a patch, in pixels', at_least(1), fixed=True),
  'pooling': Field(
    'token',
    'what is classified: a class token beside the patches, or the mean of the patches',
    one_of('token', 'mean'),
    fixed=True,
  ),
  'positions': Field(
    'learned',
    'what is added to the patches: learned vectors, or sines and cosines of row and column',
    one_of('learned', 'sincos'),
    fixed=True,
  ),
  'dropout': Field(0.0, 'share dropped of the tokens, and behind each dense layer of a block', fraction),
  'stochastic_depth': Field(
    0.0, 'share of the examples that leave out a half of the last block; earlier ones are left out less', fraction
  ),
  **remat.FIELDS,
}


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Images [B, H, W, C] -> patches -> blocks of attention and dense layers -> token or mean -> outputs.

  Raises:
    ConfigError: the inputs are not images of whole patches, or the width does not fit heads or positions.
  """
  x = inputs = parts.inputs('vit', input_spec, rank=3)
  layers, width, heads = (
    given or size for given, size in zip((fields.layers, fields.width, fields.heads), SIZES[fields.size], strict=True)
  )
  height, width_pixels = inputs.shape[1:3]
  patch = fields.patch_size
  if height % patch or width_pixels % patch:
    raise ConfigError(
      f'model.patch_size={patch} does not divide the image of {height} x {width_pixels} pixels: '
      'change it, or set task.image_size'
    )
  parts.check_heads(heads, width)
  if fields.positions == 'sincos' and (width % 4 or width < 8):
    raise ConfigError(f"model.positions='sincos' needs a width of 8, 12, 16, ..., not {width}: change model.width")
  grid = height // patch, width_pixels // patch
  x = keras.layers.Conv2D(width, patch, patch, name='patches')(x)
  x = keras.layers.Reshape((grid[0] * grid[1], width), name='tokens')(x)
  x = Embedding(grid, class_token=fields.pooling == 'token', learned=fields.positions == 'learned', name='embedding')(x)
  x = parts.dropout(fields, x, 'embedding')
  for i in range(1, layers + 1):
    drop = fields.stochastic_depth * (i - 1) / max(layers - 1, 1)
    x = block(fields, x, width, heads, f'block{i}', drop=drop)
  x = keras.layers.LayerNormalization(epsilon=EPSILON, name='norm')(x)
  if fields.pooling == 'token':
    x = parts.FirstToken(name='vector')(x)
  else:
    x = keras.layers.GlobalAveragePooling1D(name='vector')(x)
  # Zeros, as in the code of Dosovitskiy et al.: the first outputs are all alike.
  outputs = parts.head(units, kernel_initializer='zeros')(x)
  return keras.Model(inputs, outputs, name='vit')


def block(
  fields: Any, x: Any, width: int, heads: int, name: str, *, drop: float = 0.0, key_mask: Any | None = None
) -> Any:
  """One block, [B, T, D] -> [B, T, D].

  Args:
    fields: has `dropout`, `attention` and `remat`.
    x: tokens.
    width: D.
    heads: attention heads, a divisor of D.
    name: what the names of its layers begin with.
    drop: share of the examples that leave a half of it out.
    key_mask: bool [B, T], the tokens that others may look at; None: all.
  """

  def made(x: Any, there: Any | None = None) -> Any:
    x = _attention(fields, x, width, heads, drop, there, f'{name}_attention')
    return _dense(fields, x, width, drop, f'{name}_mlp')

  return remat.block(made, [x] if key_mask is None else [x, key_mask], name, fields.remat == 'none')


def _attention(fields: Any, x: Any, width: int, heads: int, drop: float, key_mask: Any, name: str) -> Any:
  """The first half of a block: x + attention(norm(x)), [B, T, D]."""
  y = keras.layers.LayerNormalization(epsilon=EPSILON, name=f'{name}_norm')(x)
  query, key, value = (keras.layers.Dense(width, name=f'{name}_{part}')(y) for part in ('query', 'key', 'value'))
  blocks = fields.attention == 'blockwise'
  y = Attention(heads, blocks=blocks, name=f'{name}_core')([query, key, value], key_mask=key_mask)
  y = parts.dropout(fields, keras.layers.Dense(width, name=f'{name}_out')(y), f'{name}_out')
  return _add(x, y, drop, name)


def _dense(fields: Any, x: Any, width: int, drop: float, name: str) -> Any:
  """The second half of a block: x + dense(gelu(dense(norm(x)))), [B, T, D]."""
  y = keras.layers.LayerNormalization(epsilon=EPSILON, name=f'{name}_norm')(x)
  y = keras.layers.Dense(_EXPANSION * width, name=f'{name}_in')(y)
  y = parts.dropout(fields, keras.layers.Activation('gelu', name=f'{name}_gelu')(y), f'{name}_in')
  y = parts.dropout(fields, keras.layers.Dense(width, name=f'{name}_out')(y), f'{name}_out')
  return _add(x, y, drop, name)


def _add(x: Any, y: Any, drop: float, name: str) -> Any:
  """x + y, where y is left out of a share `drop` of the examples (Huang et al., Stochastic Depth, 2016).

  What stays is divided by its share, so that nothing needs to be scaled in evaluation.
  """
  if drop:
    y = keras.layers.Dropout(drop, noise_shape=(None, 1, 1), name=f'{name}_depth')(y)
  return keras.layers.Add(name=f'{name}_add')([x, y])


@keras.saving.register_keras_serializable('trainer')
class Embedding(keras.layers.Layer):
  """Puts a class token before the patches, and adds to each token what tells its place.

  A fixed position of the class token would be that of no patch, so it gets none.
  """

  def __init__(self, grid: tuple[int, int], *, class_token: bool, learned: bool, **kwargs: Any):
    super().__init__(**kwargs)
    self.grid, self.class_token, self.learned = (grid[0], grid[1]), class_token, learned

  def build(self, input_shape: Any) -> None:
    _, tokens, width = input_shape
    if self.class_token:
      self.token_11D = self.add_weight(name='class_token', shape=(1, 1, width), initializer='zeros')
    if self.learned:
      self.positions_1TD = self.add_weight(
        name='positions',
        shape=(1, tokens + self.class_token, width),
        initializer=keras.initializers.RandomNormal(stddev=0.02),
      )

  def call(self, patches_BTD: tf.Tensor) -> tf.Tensor:
    """[B, T, D] -> [B, T, D], or [B, T + 1, D] with a class token in the first place."""
    x = patches_BTD
    if not self.learned:
      x += tf.cast(sincos(self.grid, x.shape[-1])[np.newaxis], x.dtype)
    if self.class_token:
      token_11D = tf.cast(self.token_11D, x.dtype)
      x = tf.concat([tf.tile(token_11D, [tf.shape(x)[0], 1, 1]), x], axis=1)
    return x + tf.cast(self.positions_1TD, x.dtype) if self.learned else x

  def compute_output_shape(self, input_shape: Any) -> Any:
    batch, tokens, width = input_shape
    return batch, tokens + self.class_token, width

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'grid': self.grid, 'class_token': self.class_token, 'learned': self.learned}


def sincos(grid: tuple[int, int], width: int) -> np.ndarray:
  """Fixed positions in two dimensions: Chen et al., MoCo v3, 2021, in the form of Beyer et al., section 3.

  A quarter of the numbers each: sines and cosines of the column, then of the row, at wavelengths of 2 pi to 2 pi times
  10,000 in geometric steps.

  Args:
    grid: rows and columns of patches.
    width: D, a multiple of 4.

  Returns:
    float32 [rows * columns, D], row by row.
  """
  row, column = (axis.reshape(-1, 1) for axis in np.mgrid[: grid[0], : grid[1]])
  frequency = _TEMPERATURE ** -np.linspace(0.0, 1.0, width // 4)
  x, y = column * frequency, row * frequency
  return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)
