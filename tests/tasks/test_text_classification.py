"""Texts as bytes of one length, and classes learnt from them as from anything else."""

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import made_up
from tests.tasks.made_up import F
from trainer.errors import ConfigError
from trainer.tasks import text_classification

TEXTS = F.FeaturesDict({'text': F.Text(), 'label': F.ClassLabel(num_classes=3)})


@pytest.mark.parametrize('text', ['', 'ab', 'größer', 'abcdefgh', 'abcdefghi', 'a\0b'])
def test_a_text_becomes_its_first_bytes(text):
  task = made_up.task('text_classification', TEXTS, bytes=8)
  example = task.example({'text': tf.constant(text), 'label': 2})
  expected = [byte + 1 for byte in text.encode()][:8]
  assert example['inputs'].numpy().tolist() == expected + [0] * (8 - len(expected))
  assert example['inputs'].dtype == task.input_spec.dtype == tf.int32 and task.input_spec.shape == (8,)
  assert example['targets'].numpy() == 2
  assert example['inputs'].numpy().max(initial=0) < text_classification.VOCABULARY


def test_it_is_traced_to_a_static_shape():
  task = made_up.task('text_classification', TEXTS, bytes=8)
  rows = {'text': ['a', 'bc'], 'label': np.int64([0, 1])}
  spec = tf.data.Dataset.from_tensor_slices(rows).map(task.example).element_spec
  assert spec['inputs'] == tf.TensorSpec([8], tf.int32)
  assert task.units == 3 and task.draws == 0 and task.activation == 'softmax'
  assert task.state()['inputs'] == {'feature': 'text', 'bytes': 8}


def test_no_field_of_images_is_there():
  assert not {'image_size', 'normalize', 'flip_horizontal'} & text_classification.FIELDS.keys()
  assert {'label', 'loss', 'metrics', 'label_smoothing'} <= text_classification.FIELDS.keys()


@pytest.mark.parametrize(
  ('features', 'changes', 'words'),
  [
    (made_up.images(), {}, 'no feature of the dataset is a text'),
    (TEXTS, {'input': 'txt'}, "did you mean 'text'?"),
    (TEXTS, {'input': 'label'}, 'is not a text'),
  ],
)
def test_what_does_not_fit_is_named(features, changes, words):
  with pytest.raises(ConfigError) as caught:
    made_up.task('text_classification', features, **changes)
  assert words in str(caught.value) and '\n' not in str(caught.value)
