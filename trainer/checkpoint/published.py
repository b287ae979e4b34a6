"""Names of weights in published files: the tables that `init_from.names` may name.

A row is (pattern of our path, name in the file, operations). In the name, `\\1` is the pattern's first group and
`{\\1-1}` that number less one: our blocks are counted from 1. What the operations are is said in `reshaped`. Where
several rows match a path, the first whose name is in the file counts: the same weights are published under more than
one name.

Sources of the names: the modules of Hugging Face's transformers, GPT2LMHeadModel, LlamaForCausalLM, BertForMaskedLM and
BertForSequenceClassification, T5ForConditionalGeneration, ViTForImageClassification; and timm's VisionTransformer.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of a table; see the module's docstring."""

  pattern: re.Pattern[str]
  name: str
  operations: tuple[str, ...] = ()

  def of(self, path: str) -> str | None:
    """The name of the weight at `path`, if the row is about it."""
    found = self.pattern.fullmatch(path)
    if not found:
      return None
    return re.sub(r'\{(\d+)-1\}', lambda number: str(int(number[1]) - 1), found.expand(self.name))


@dataclasses.dataclass(frozen=True)
class Table:
  """Attributes:
  rows: in the order in which they are tried.
  prefix: what some files have before the names of the trunk, and others have not.
  sign: a name, without the prefix, by which such a file is known.
  """

  rows: tuple[Row, ...]
  prefix: str = ''
  sign: str = ''

  def find(self, path: str, found: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """The name of the weight at `path` in a file that has the names `found`, and what is to be done to it."""
    fitting = [(name, row.operations) for row in self.rows if (name := row.of(path)) is not None]
    there = [each for each in fitting if each[0] in found]
    return (there or fitting or [(path, ())])[0]


def rows(entries: Sequence[Sequence[str]]) -> tuple[Row, ...]:
  """Rows out of [pattern, name, operation, ...].

  Raises:
    ValueError: an operation is not known, or a pattern no regular expression.
  """
  made = []
  for pattern, name, *operations in entries:
    for operation in operations:
      if operation not in ('transpose', 'convolution') and not _PART.fullmatch(operation):
        raise ValueError(f'{operation!r} behind a name; known are transpose, convolution and part K/N')
    try:
      made.append(Row(re.compile(pattern), name, tuple(operations)))
    except re.error as error:
      raise ValueError(f'{pattern!r} is no regular expression: {error}') from error
  return tuple(made)


_PART = re.compile(r'part ([1-9]\d*)/([1-9]\d*)')


def reshaped(array: np.ndarray, operations: Sequence[str]) -> np.ndarray:
  """An array of a file as we have it.

  Args:
    array: any.
    operations: in their order: 'transpose' turns a matrix round, [out, in] -> [in, out]; 'convolution' takes
      [out, in, height, width] to [height, width, in, out]; 'part K/N' is the K-th of N equal parts of the last axis.

  Raises:
    ValueError: the array has not the shape for it.
  """
  for operation in operations:
    if operation == 'transpose':
      array = array.T
    elif operation == 'convolution':
      array = np.transpose(array, (2, 3, 1, 0))
    elif part := _PART.fullmatch(operation):
      array = np.split(array, int(part[2]), axis=-1)[int(part[1]) - 1]
  return array


def _each(pattern: str, name: str, inner: dict[str, str], parts: dict[str, str], *operations: str) -> list[list[str]]:
  """Rows of layers that have the same parts: `%` in pattern and name stands for the layer.

  Args:
    pattern, name: of a part, without it.
    inner: our layer -> theirs.
    parts: our part -> theirs; the operations are for what we call 'kernel'.
    operations: what their weights need.
  """
  return [
    [f'{pattern.replace("%", ours)}/{part}', f'{name.replace("%", theirs)}.{ending}', *_of(part, operations)]
    for ours, theirs in inner.items()
    for part, ending in parts.items()
  ]


def _of(part: str, operations: Sequence[str]) -> Sequence[str]:
  return operations if part == 'kernel' else ()


_DENSE, _NORM, _OLD_NORM = (
  {'kernel': 'weight', 'bias': 'bias'},
  {'gamma': 'weight', 'beta': 'bias'},
  {'gamma': 'gamma', 'beta': 'beta'},  # as TensorFlow's first checkpoints had them
)
_KERNEL, _SCALE = {'kernel': 'weight'}, {'scale': 'weight'}


def _gpt2() -> Table:
  block, there = r'gpt/block(\d+)/%', r'h.{\1-1}.%'
  entries = [
    ['gpt/tokens/embeddings', 'wte.weight'],
    ['gpt/positions/embeddings', 'wpe.weight'],
    *_each('gpt/%', '%', {'norm': 'ln_f'}, _NORM),
    *_each(block, there, {'attention_norm': 'ln_1', 'mlp_norm': 'ln_2'}, _NORM),
    *_each(block, there, {'out': 'attn.c_proj', 'up': 'mlp.c_fc', 'down': 'mlp.c_proj'}, _DENSE),
  ]
  # The three products are one there, whose matrix lies as ours do.
  for number, name in enumerate(('query', 'key', 'value'), 1):
    for part, ending in _DENSE.items():
      entries.append([rf'gpt/block(\d+)/{name}/{part}', rf'h.{{\1-1}}.attn.c_attn.{ending}', f'part {number}/3'])
  return Table(rows(entries), 'transformer.', 'h.0.attn.c_attn.weight')


def _llama() -> Table:
  block, there = r'gpt/block(\d+)/%', r'layers.{\1-1}.%'
  matrices = {
    'query': 'self_attn.q_proj', 'key': 'self_attn.k_proj', 'value': 'self_attn.v_proj', 'out': 'self_attn.o_proj',
    'gate': 'mlp.gate_proj', 'up': 'mlp.up_proj', 'down': 'mlp.down_proj',
  }  # fmt: skip
  entries = [
    ['gpt/tokens/embeddings', 'embed_tokens.weight'],
    ['gpt/tokens/reverse_embeddings', 'lm_head.weight', 'transpose'],
    ['gpt/norm/scale', 'norm.weight'],
    *_each(block, there, {'attention_norm': 'input_layernorm', 'mlp_norm': 'post_attention_layernorm'}, _SCALE),
    *_each(block, there, matrices, _KERNEL, 'transpose'),
  ]
  return Table(rows(entries), 'model.', 'layers.0.self_attn.q_proj.weight')


# A layer of the encoders of BERT and ViT, which transformers names alike.
_ENCODER, _ENCODER_LAYER = r'block(\d+)_%', r'encoder.layer.{\1-1}.%'


def _encoder(attention: str) -> list[list[str]]:
  """Rows of such a layer's matrices; `attention`: what its three products are in."""
  matrices = {
    **{f'attention_{name}': f'attention.{attention}.{name}' for name in ('query', 'key', 'value')},
    'attention_out': 'attention.output.dense', 'mlp_in': 'intermediate.dense', 'mlp_out': 'output.dense',
  }  # fmt: skip
  return _each(_ENCODER, _ENCODER_LAYER, matrices, _DENSE, 'transpose')


def _bert() -> Table:
  entries = [
    ['tokens/embeddings', 'embeddings.word_embeddings.weight'],
    ['embedding/positions', 'embeddings.position_embeddings.weight'],
    ['embedding/segments', 'embeddings.token_type_embeddings.weight'],
    *_encoder('self'),
    *_each('%', '%', {'transform': 'cls.predictions.transform.dense', 'pooler': 'pooler.dense'}, _DENSE, 'transpose'),
    *_each('%', '%', {'head': 'classifier'}, _DENSE, 'transpose'),
    ['head/bias', 'cls.predictions.bias'],
  ]
  for parts in (_NORM, _OLD_NORM):
    norms = {'attention_norm': 'attention.output.LayerNorm', 'mlp_norm': 'output.LayerNorm'}
    entries += _each(_ENCODER, _ENCODER_LAYER, norms, parts)
    norms = {'embedding_norm': 'embeddings.LayerNorm', 'transform_norm': 'cls.predictions.transform.LayerNorm'}
    entries += _each('%', '%', norms, parts)
  return Table(rows(entries), 'bert.', 'encoder.layer.0.attention.self.query.weight')


def _t5() -> Table:
  entries = [
    ['seq2seq/embedding/embeddings', 'shared.weight'],
    ['seq2seq/head/kernel', 'lm_head.weight', 'transpose'],
    [r'seq2seq/(encoder|decoder)_positions/table', r'\1.block.0.layer.0.SelfAttention.relative_attention_bias.weight'],
    [r'seq2seq/(encoder|decoder)_norm/scale', r'\1.final_layer_norm.weight'],
  ]
  products = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}
  inner = {'in': 'wi', 'gate': 'wi_0', 'value': 'wi_1', 'out': 'wo'}
  for side, last in (('encoder', 1), ('decoder', 2)):
    block, there = rf'seq2seq/{side}(\d+)/', rf'{side}.block.{{\1-1}}.layer.'
    for layer, place, kind in (('attention', 0, 'SelfAttention'), ('cross', 1, 'EncDecAttention')):
      entries += _each(f'{block}{layer}/%', f'{there}{place}.{kind}.%', products, _KERNEL, 'transpose')
      entries.append([f'{block}{layer}/norm/scale', f'{there}{place}.layer_norm.weight'])
    entries += _each(f'{block}%', f'{there}{last}.DenseReluDense.%', inner, _KERNEL, 'transpose')
    entries.append([f'{block}norm/scale', f'{there}{last}.layer_norm.weight'])
  return Table(rows(entries), '', 'encoder.block.0.layer.0.SelfAttention.q.weight')


def _vit() -> Table:
  norms = {'attention_norm': 'layernorm_before', 'mlp_norm': 'layernorm_after'}
  entries = [
    ['embedding/class_token', 'embeddings.cls_token'],
    ['embedding/positions', 'embeddings.position_embeddings'],
    *_each('%', '%', {'patches': 'embeddings.patch_embeddings.projection'}, _DENSE, 'convolution'),
    *_encoder('attention'),
    *_each(_ENCODER, _ENCODER_LAYER, norms, _NORM),
    *_each('%', '%', {'norm': 'layernorm'}, _NORM),
    *_each('%', '%', {'head': 'classifier'}, _DENSE, 'transpose'),
  ]
  return Table(rows(entries), 'vit.', 'encoder.layer.0.attention.attention.query.weight')


def _timm_vit() -> Table:
  block, there = r'block(\d+)_%', r'blocks.{\1-1}.%'
  matrices = {'attention_out': 'attn.proj', 'mlp_in': 'mlp.fc1', 'mlp_out': 'mlp.fc2'}
  entries = [
    ['embedding/class_token', 'cls_token'],
    ['embedding/positions', 'pos_embed'],
    *_each('%', '%', {'patches': 'patch_embed.proj'}, _DENSE, 'convolution'),
    *_each(block, there, matrices, _DENSE, 'transpose'),
    *_each(block, there, {'attention_norm': 'norm1', 'mlp_norm': 'norm2'}, _NORM),
    *_each('%', '%', {'norm': 'norm'}, _NORM),
    *_each('%', '%', {'head': 'head'}, _DENSE, 'transpose'),
  ]
  for number, name in enumerate(('query', 'key', 'value'), 1):
    ours, theirs, part = rf'block(\d+)_attention_{name}', r'blocks.{\1-1}.attn.qkv', f'part {number}/3'
    entries += [[f'{ours}/kernel', f'{theirs}.weight', 'transpose', part], [f'{ours}/bias', f'{theirs}.bias', part]]
  return Table(rows(entries), '', 'blocks.0.attn.qkv.weight')


TABLES = {
  'gpt2': _gpt2(), 'llama': _llama(), 'bert': _bert(), 't5': _t5(), 'vit': _vit(), 'timm_vit': _timm_vit(),
}  # fmt: skip


def known(found: Collection[str]) -> str:
  """The table whose names a file seems to have; '' if it is none."""
  return next((name for name, table in TABLES.items() if {table.sign, table.prefix + table.sign} & set(found)), '')
