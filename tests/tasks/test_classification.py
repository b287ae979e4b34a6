"""Classification: examples, losses and what does not fit."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import made_up
from tests.tasks.made_up import F
from trainer.errors import ConfigError
from trainer.tasks import classification

KINDS = {'four classes': (4, False), 'two classes': (2, False), 'one logit': (2, True)}


def make(kind, **changes):
  classes, single = KINDS[kind]
  task = made_up.task('classification', made_up.images(classes), single_logit=single, metrics=(), **changes)
  return task, *made_up.batch(task, 'classification', classes=classes)


def test_an_example():
  task = made_up.task('classification')
  row = {'image': tf.fill([8, 8, 1], tf.constant(51, tf.uint8)), 'label': tf.constant(2, tf.int64)}
  dataset = tf.data.Dataset.from_tensors(row).map(task.example)
  assert dataset.element_spec == {'inputs': task.input_spec, 'targets': tf.TensorSpec([], tf.int32)}
  example = next(iter(dataset))
  np.testing.assert_allclose(example['inputs'], np.full((8, 8, 1), 0.2), rtol=1e-6)
  assert example['targets'] == 2
  assert task.units == 4
  assert task.best == ('accuracy', 'max')


def test_the_state_is_json_and_names_the_classes():
  features = F.FeaturesDict({'x': F.Tensor(shape=(2,), dtype=np.float32), 'y': F.ClassLabel(names=['no', 'yes'])})
  state = json.loads(json.dumps(made_up.task('classification', features).state()))
  assert state['names'] == ['no', 'yes']
  assert (state['label'], state['classes']) == ('y', 2)
  assert state['inputs'] == {'feature': 'x', 'normalize': 'standardize', 'mean': 0.0, 'deviation': 1.0}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('loss', ['auto', *classification.LOSSES])
def test_every_loss_is_per_example_with_finite_gradients(loss, kind):
  task, outputs, batch = make(kind, loss=loss)
  with tf.GradientTape() as tape:
    tape.watch(outputs)
    losses = task.losses(outputs, batch)
    total = tf.reduce_sum(losses)
  gradient = tape.gradient(total, outputs).numpy()
  assert losses.dtype == tf.float32
  assert losses.shape == (16,)
  assert np.all(np.isfinite(losses))
  assert np.all(np.isfinite(gradient))
  assert np.any(gradient != 0)
  # Alone, each example has the loss that it has among the others.
  for i in (0, 5):
    one = task.losses(outputs[i : i + 1], {'targets': batch['targets'][i : i + 1]})
    np.testing.assert_allclose(one[0], losses[i], rtol=1e-5, atol=1e-6)
  # A step against the gradient makes it smaller: targets and outputs are the right way round.
  assert tf.reduce_sum(task.losses(outputs - 1e-3 * gradient, batch)) < total


@pytest.mark.parametrize('loss', ['auto', *classification.LOSSES])
def test_losses_stay_finite_far_out(loss):
  task, outputs, batch = make('four classes', loss=loss)
  outputs = outputs * 1e3
  with tf.GradientTape() as tape:
    tape.watch(outputs)
    losses = task.losses(outputs, batch)
  assert np.all(np.isfinite(losses))
  assert np.all(np.isfinite(tape.gradient(losses, outputs)))


def test_low_precision_outputs_give_float32_losses():
  task, outputs, batch = make('four classes')
  assert task.losses(tf.cast(outputs, tf.bfloat16), batch).dtype == tf.float32


@pytest.mark.parametrize('kind', ['four classes', 'two classes'])
def test_auto_is_the_cross_entropy(kind):
  task, outputs, batch = make(kind)
  logits = outputs.numpy().astype(np.float64)
  log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  expected = -log_p[np.arange(16), batch['targets'].numpy()]
  np.testing.assert_allclose(task.losses(outputs, batch), expected, rtol=1e-5)
  np.testing.assert_allclose(make(kind, loss='categorical_crossentropy')[0].losses(outputs, batch), expected, rtol=1e-5)


def test_one_logit_is_two_classes():
  one, z, batch = make('one logit')
  two, _, _ = make('two classes')
  logits = tf.concat([tf.zeros_like(z), z], axis=1)
  np.testing.assert_allclose(one.losses(z, batch), two.losses(logits, batch), rtol=1e-5, atol=1e-6)
  for loss in ('sparse_categorical_crossentropy', 'kl_divergence', 'dice'):
    single, double = make('one logit', loss=loss)[0], make('two classes', loss=loss)[0]
    np.testing.assert_allclose(single.losses(z, batch), double.losses(logits, batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_label_smoothing_spreads_a_share_of_the_label(kind):
  task, outputs, batch = make(kind, label_smoothing=0.2)
  z = outputs.numpy().astype(np.float64)
  logits = np.concatenate([0 * z, z], axis=1) if kind == 'one logit' else z
  log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  classes = log_p.shape[1]
  smooth = 0.8 * np.eye(classes)[batch['targets'].numpy()] + 0.2 / classes
  np.testing.assert_allclose(task.losses(outputs, batch), -(smooth * log_p).sum(axis=1), rtol=1e-4)


def test_options_reach_the_loss():
  plain, outputs, batch = make('four classes', loss='categorical_focal_crossentropy')
  sharp, _, _ = make('four classes', loss='CategoricalFocalCrossentropy', loss_options='{"gamma": 5.0, "alpha": 1.0}')
  assert not np.allclose(plain.losses(outputs, batch), sharp.losses(outputs, batch))


@pytest.mark.parametrize(
  ('features', 'changes', 'words'),
  [
    (made_up.vectors(), {}, 'no feature of the dataset is a class label (features, target)'),
    (made_up.images(3), {'single_logit': True}, "needs two classes, 'label' has 3"),
    (made_up.images(3), {'label': 'lable'}, "did you mean 'label'?"),
    (made_up.images(3), {'label': 'image'}, "task.label='image' is not a class label: take label"),
    (
      F.FeaturesDict({'image': F.Image(shape=(2, 2, 1)), **{n: F.ClassLabel(num_classes=2) for n in 'ab'}}),
      {},
      'set it to one of a, b',
    ),
    (F.FeaturesDict({'image': F.Image(shape=(2, 2, 1)), 'a': F.ClassLabel()}), {}, 'is a class label'),
  ],
)
def test_datasets_that_do_not_fit_are_named(features, changes, words):
  with pytest.raises(ConfigError) as caught:
    made_up.task('classification', features, **changes)
  assert words in str(caught.value)
  assert '\n' not in str(caught.value)
