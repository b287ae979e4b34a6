"""Recordings as log-mel frames, against NumPy; and classes learnt from them."""

import math
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import made_up, recordings
from tests.tasks.made_up import F
from trainer.errors import ConfigError
from trainer.tasks import audio, audio_classification


def by_hand(samples, window=32, hop=16, bands=8, rate=recordings.RATE, low=20.0):
  """The definition: Hann window, power spectrum, triangles on the mel scale, logarithm. [T, F]."""
  count = max(1 + (len(samples) - window) // hop, 1)
  samples = np.pad(samples / 2**15, [0, window])
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
  power = np.array([np.abs(np.fft.rfft(hann * samples[t * hop : t * hop + window])) ** 2 for t in range(count)])
  mel = 1127 * np.log1p(np.arange(window // 2 + 1) * rate / window / 700)
  edges = np.linspace(1127 * math.log1p(low / 700), 1127 * math.log1p(rate / 2 / 700), bands + 2)
  weights = (
    np.array([np.interp(mel, edges[i : i + 3], [0, 1, 0], left=0, right=0) for i in range(bands)]).T
    * (np.arange(window // 2 + 1) > 0)[:, None]
  )
  return np.log(power @ weights + 1e-6)


@pytest.mark.parametrize('samples', [10, 32, 47, 48, 200, 272, 400])
def test_frames_are_those_of_the_definition(samples):
  task = recordings.task('ctc')
  row = recordings.row(samples)
  example = task.example(row)
  frames, length = example['inputs']['frames'].numpy(), int(example['inputs']['length'])
  expected = by_hand(row['audio'].numpy().astype(np.float64))[:16]
  assert frames.shape == (16, 8) and length == len(expected)
  np.testing.assert_allclose(frames[:length], expected, atol=2e-3)
  assert np.all(frames[length:] == 0), 'there is nothing behind the end'
  assert bool(example['targets']['whole']) == (samples <= 272)


def test_statistics_are_of_the_training_split_and_of_what_is_heard():
  rows = [recordings.row(samples, seed=seed) for seed, samples in enumerate((40, 150, 300))]
  task = recordings.task('ctc', rows)
  made = [task.example(row)['inputs'] for row in rows]
  heard = np.concatenate([inputs['frames'][: inputs['length']] for inputs in made])
  np.testing.assert_allclose(heard.mean(axis=0), 0, atol=1e-4)
  np.testing.assert_allclose(heard.std(axis=0), 1, atol=1e-4)
  again = recordings.task('ctc', saved=task.state())
  np.testing.assert_array_equal(again.example(rows[0])['inputs']['frames'], made[0]['frames'])
  first = recordings.task('ctc', rows, statistics_examples=1).state()['inputs']['mean']
  np.testing.assert_allclose(first, by_hand(rows[0]['audio'].numpy().astype(np.float64)).mean(axis=0), atol=1e-3)


def test_equal_loudness_takes_the_loudness_out():
  row = recordings.row(272)
  softer = {**row, 'audio': row['audio'] // 4}
  for equal, difference in ((False, 2 * math.log(4)), (True, 0)):
    task = recordings.task('ctc', equal_loudness=equal)
    frames = [task.example(each)['inputs']['frames'].numpy() for each in (row, softer)]
    np.testing.assert_allclose(frames[0] - frames[1], difference, atol=0.02)


def test_floats_wide_integers_and_channels_are_heard_alike():
  samples = recordings.audio(200)
  expected = recordings.task('ctc').example({**recordings.row(1), 'audio': tf.constant(samples)})['inputs']['frames']
  kinds = [
    (F.Audio(dtype=np.int64, sample_rate=recordings.RATE), samples.astype(np.int64)),
    (F.Audio(dtype=np.float32, sample_rate=recordings.RATE), (samples / 2**15).astype(np.float32)),
    (F.Audio(shape=(None, 2), dtype=np.int16, sample_rate=recordings.RATE), np.stack([samples, samples], axis=1)),
  ]
  for feature, value in kinds:
    task = recordings.task('ctc', features=recordings.features_of(feature))
    frames = task.example({**recordings.row(1), 'audio': tf.constant(value)})['inputs']['frames']
    np.testing.assert_allclose(frames, expected, atol=1e-4)


def test_the_mel_scale_goes_there_and_back():
  hertz = np.array([0.0, 20.0, 700.0, 4000.0])
  np.testing.assert_allclose(audio.to_hertz(audio.to_mel(hertz)), hertz, atol=1e-9)
  assert audio.to_mel(1000.0) == pytest.approx(1000, abs=0.1), 'that is how the scale is laid'


def test_a_class_is_learnt_from_the_frames_alone():
  task = recordings.task('audio_classification')
  rows = {'audio': [recordings.audio(60)], 'label': np.int64([2]), 'text': ['']}
  spec = tf.data.Dataset.from_tensor_slices(rows).map(task.example).element_spec
  assert spec['inputs'] == task.input_spec == tf.TensorSpec([16, 8], tf.float32)
  assert task.units == 3 and task.draws == 0
  example = task.example(recordings.row(60))
  assert int(example['targets']) == 1
  np.testing.assert_array_equal(
    example['inputs'], recordings.task('ctc').example(recordings.row(60))['inputs']['frames']
  )


def test_recordings_are_changed_one_by_one_and_not_by_a_half():
  changes = {'warp': 0.2, 'pace': 0.2, 'later_frames': 3, 'time_masks': 1, 'frequency_masks': 1}
  task = recordings.task('audio_classification', **changes)
  batch = recordings.batch(task, [recordings.row(n, seed=n) for n in (60, 200, 272)])
  same = task.augment(batch, tf.fill([3, task.draws], 0.5))
  np.testing.assert_allclose(same['inputs'], batch['inputs'], atol=1e-5)
  draws = tf.constant(np.random.default_rng(1).random((3, task.draws)).astype(np.float32))
  changed = task.augment(batch, draws)['inputs']
  assert not np.allclose(changed, batch['inputs'], atol=0.1)
  alone = task.augment({name: value[1:2] for name, value in batch.items()}, draws[1:2])['inputs']
  np.testing.assert_allclose(changed[1:2], alone, atol=1e-5)


def test_no_field_of_images_is_there():
  assert not {'image_size', 'normalize', 'flip_horizontal', 'mixup'} & audio_classification.FIELDS.keys()
  assert {'label', 'loss', 'metrics', 'mel_bins', 'time_masks'} <= audio_classification.FIELDS.keys()


UNKNOWN_RATE = recordings.features_of(F.Audio(dtype=np.int16))


@pytest.mark.parametrize(
  ('features', 'changes', 'words'),
  [
    (made_up.images(), {}, 'no feature of the dataset is a recording'),
    (recordings.SPEECH, {'input': 'label'}, 'is not a recording: take audio'),
    (recordings.SPEECH, {'sample_rate': 8000}, "the dataset has 'audio' at 1000: set it to 0"),
    (UNKNOWN_RATE, {}, 'set task.sample_rate'),
    (
      recordings.SPEECH,
      {'hop_ms': 40.0},
      'task.hop_ms=40.0, frame_ms=32.0 and seconds=0.272 are 40, 32 and 272 samples',
    ),
    (recordings.SPEECH, {'seconds': 0.02}, 'are 16, 32 and 20 samples'),
    (recordings.SPEECH, {'upper_hertz': 600.0}, 'must be rising, and at most 500.0'),
    (recordings.SPEECH, {'lower_hertz': 500.0}, 'task.lower_hertz=500.0 and upper_hertz=500.0 must be rising'),
  ],
)
def test_what_does_not_fit_is_named(features, changes, words):
  with pytest.raises(ConfigError, match=re.escape(words)) as caught:
    recordings.task('audio_classification', features=features, **changes)
  assert '\n' not in str(caught.value)
  assert recordings.task('audio_classification', features=UNKNOWN_RATE, sample_rate=1000).input_spec.shape == (16, 8)
