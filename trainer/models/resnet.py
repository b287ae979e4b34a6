"""Residual networks of 18 to 152 layers: He et al., Deep Residual Learning for Image Recognition, 2015.

Sizes are those of table 1, shortcuts are of kind B (section 3.3: a projection where shapes differ). The bottleneck is
that of version 1.5: the stride stands in the 3x3 convolution, not in the 1x1 before it (Goyal et al., Accurate, Large
Minibatch SGD, 2017, section 5.1). Padding is the same on both sides, as in both papers' code; Keras' 'same' pads a
strided convolution more on the right.

Small images keep their resolution in the stem: a 3x3 convolution without a stride and no pooling, as section 4.2 has
it for CIFAR-10.

Dimensions: B batch, H height, W width, C channels.
"""

from __future__ import annotations

from typing import Any

import keras

from trainer.fields import Field, at_least, one_of
from trainer.models import norms, parts

# depth: (blocks of each stage, whether a block is a bottleneck)
DEPTHS: dict[int, tuple[tuple[int, ...], bool]] = {
  18: ((2, 2, 2, 2), False),
  34: ((3, 4, 6, 3), False),
  50: ((3, 4, 6, 3), True),
  101: ((3, 4, 23, 3), True),
  152: ((3, 8, 36, 3), True),
}
# A bottleneck gives four times as many channels as its 3x3 convolution has.
EXPANSION = 4
SMALL_IMAGE_PIXELS = 64
_MOMENTUM, _EPSILON = 0.9, 1e-5


def _check_depth(depth: int) -> str:
  return '' if depth in DEPTHS else f'must be one of {", ".join(map(str, DEPTHS))}'


FIELDS: dict[str, Field] = {
  'depth': Field(50, 'layers: 18, 34, 50, 101 or 152', _check_depth, fixed=True),
  'width': Field(
    64, 'channels of the stem and of the first stage; each next stage has twice as many', at_least(1), fixed=True
  ),
  'stem': Field(
    'auto',
    f'image: 7x7 convolution and pooling, a quarter of the resolution; small: 3x3, all of it; auto: small up to '
    f'{SMALL_IMAGE_PIXELS} pixels on a side',
    one_of('auto', 'image', 'small'),
    fixed=True,
  ),
  'norm': Field(
    'batch',
    'normalisation after each convolution; batch depends on the number of replicas',
    norms.rule('batch', 'sync_batch', 'group', 'layer'),
    fixed=True,
  ),
  'zero_scale': Field(False, "the scale of each block's last normalisation starts at 0: blocks start as identities"),
  **parts.REGULARIZER_FIELDS,
}


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Images [B, H, W, C] of any size -> stem -> four stages -> mean over the positions -> outputs.

  Raises:
    ConfigError: the inputs are not images.
  """
  x = inputs = parts.inputs('resnet', input_spec, rank=3)
  small = fields.stem == 'small' or (fields.stem == 'auto' and min(inputs.shape[1:3]) <= SMALL_IMAGE_PIXELS)
  x = stages(fields, x, small=small)[-1]
  x = keras.layers.GlobalAveragePooling2D(name='vector')(x)
  # The deviation is that of Goyal et al., section 5.1.
  initializer = keras.initializers.RandomNormal(stddev=0.01)
  outputs = parts.head(units, kernel_initializer=initializer, kernel_regularizer=parts.regularizer(fields))(x)
  return keras.Model(inputs, outputs, name='resnet')


def stages(fields: Any, x: Any, *, small: bool) -> list[Any]:
  """What comes out of each of the four stages, [B, H', W', C'].

  Args:
    fields: the values of FIELDS, of which `stem` is not read.
    x: images [B, H, W, C].
    small: whether the first stage keeps the resolution; else it has a quarter of it. Each next one halves it.
  """
  blocks, bottleneck = DEPTHS[fields.depth]
  found = []
  x = _convolution(fields, x, fields.width, 3 if small else 7, 1 if small else 2, 'stem')
  x = keras.layers.Activation('relu', name='stem_activation')(x)
  if not small:
    # Zeros beside outputs of a relu are never the largest, unless all are 0.
    x = keras.layers.ZeroPadding2D(1, name='stem_pool_pad')(x)
    x = parts.MaxPooling(3, 2, name='stem_pool')(x)
  for stage, count in enumerate(blocks, 1):
    for block in range(1, count + 1):
      strides = 2 if stage > 1 and block == 1 else 1
      width = fields.width * 2 ** (stage - 1)
      x = _block(fields, x, width, strides, bottleneck=bottleneck, name=f'stage{stage}_block{block}')
    found.append(x)
  return found


def _block(fields: Any, x: Any, width: int, strides: int, *, bottleneck: bool, name: str) -> Any:
  """Convolutions, their input added to their output: 3x3 and 3x3, or as a bottleneck 1x1, 3x3 and 1x1."""
  plan = [(width, 3, strides), (width, 3, 1)]
  if bottleneck:
    plan = [(width, 1, 1), (width, 3, strides), (EXPANSION * width, 1, 1)]
  shortcut, channels = x, plan[-1][0]
  for i, (filters, kernel_size, step) in enumerate(plan, 1):
    last = i == len(plan)
    x = _convolution(fields, x, filters, kernel_size, step, f'{name}_conv{i}', zero_scale=last and fields.zero_scale)
    if not last:
      x = keras.layers.Activation('relu', name=f'{name}_conv{i}_activation')(x)
  if strides > 1 or shortcut.shape[-1] != channels:
    shortcut = _convolution(fields, shortcut, channels, 1, strides, f'{name}_shortcut')
  x = keras.layers.Add(name=f'{name}_add')([x, shortcut])
  return keras.layers.Activation('relu', name=f'{name}_activation')(x)


def _convolution(
  fields: Any, x: Any, filters: int, kernel_size: int, strides: int, name: str, *, zero_scale: bool = False
) -> Any:
  """A convolution with as much padding on the left as on the right, and its normalisation.

  Args:
    fields: the values of FIELDS.
    x: [B, H, W, C].
    filters: channels of the result.
    kernel_size: odd, in pixels.
    strides: in pixels.
    name: of the convolution.
    zero_scale: whether the scale of the normalisation starts at 0.

  Returns:
    [B, ceil(H / strides), ceil(W / strides), filters].
  """
  if kernel_size > 1 and strides > 1:
    x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f'{name}_pad')(x)
  x = keras.layers.Conv2D(
    filters,
    kernel_size,
    strides,
    padding='valid' if strides > 1 else 'same',
    use_bias=False,  # the normalisation would subtract it again
    kernel_initializer=keras.initializers.HeNormal(),
    kernel_regularizer=parts.regularizer(fields),
    name=name,
  )(x)
  norm = norms.layer(
    fields.norm, filters, f'{name}_norm', momentum=_MOMENTUM, epsilon=_EPSILON, scale='zeros' if zero_scale else 'ones'
  )
  assert norm
  return norm(x)
