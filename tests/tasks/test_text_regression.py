"""Numbers learnt from texts as from anything else."""

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import made_up
from tests.tasks.made_up import F
from trainer.errors import ConfigError
from trainer.tasks import text_regression

SEQUENCES = F.FeaturesDict({'sequence': F.Text(), 'target': F.Scalar(np.float32)})


ROWS = {'sequence': np.array(['GU', 'ACGU', 'AAAAAA']), 'target': np.float32([1.0, 2.0, 6.0])}


def test_bytes_in_and_standardized_numbers_out():
  task = made_up.task('text_regression', SEQUENCES, ROWS, bytes=4)
  example = task.example({'sequence': tf.constant('GU'), 'target': tf.constant(1.0)})
  assert example['inputs'].numpy().tolist() == [ord('G') + 1, ord('U') + 1, 0, 0]
  assert example['targets'].numpy().tolist() == [1.0]
  state = task.state()
  assert state['mean'] == pytest.approx([3.0]) and state['inputs'] == {'feature': 'sequence', 'bytes': 4}
  batch = {'targets': tf.constant([[1.0], [6.0]]), 'weight': tf.ones([2])}
  right = (np.float32([[1.0], [6.0]]) - 3.0) / np.float32(state['deviation'])
  np.testing.assert_allclose(task.losses(tf.constant(right), batch), [0.0, 0.0], atol=1e-6)
  results = task.metric_results(task.metric_values(tf.constant(right), batch).numpy().astype(np.float64))
  assert results['rmse'] == pytest.approx(0.0, abs=1e-5) and results['r2'] == pytest.approx(1.0)


def test_statistics_come_back_from_what_was_saved():
  saved = made_up.task('text_regression', SEQUENCES, ROWS, bytes=4).state()
  assert made_up.task('text_regression', SEQUENCES, None, saved, bytes=4).state() == saved


def test_its_fields_are_those_of_texts_and_of_numbers():
  assert {'bytes', 'input', 'target', 'loss', 'metrics', 'standardize_target'} == (
    text_regression.FIELDS.keys() - {'loss_options', 'metric_options'}
  )
  with pytest.raises(ConfigError, match='no feature of the dataset is a text'):
    made_up.task('text_regression', made_up.vectors())
