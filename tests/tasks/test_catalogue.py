"""Keras' losses and metrics are found by any spelling, and made with the arguments of the config."""

import keras
import pytest

from tests.tasks import made_up
from trainer import tasks
from trainer.errors import ConfigError
from trainer.tasks import catalogue


@pytest.mark.parametrize(
  ('class_name', 'expected'),
  [
    ('MeanSquaredError', 'mean_squared_error'),
    ('R2Score', 'r2_score'),
    ('F1Score', 'f1_score'),
    ('AUC', 'auc'),
    ('BinaryIoU', 'binary_iou'),
    ('OneHotMeanIoU', 'one_hot_mean_iou'),
    ('KLDivergence', 'kl_divergence'),
    ('SparseTopKCategoricalAccuracy', 'sparse_top_k_categorical_accuracy'),
    ('CTC', 'ctc'),
  ],
)
def test_snake_case(class_name, expected):
  assert catalogue.snake(class_name) == expected


def test_every_class_is_found_by_either_spelling():
  for table, find in ((catalogue.losses(), catalogue.loss_name), (catalogue.metrics(), catalogue.metric_name)):
    for name, cls in table.items():
      for spelling in (name, cls.__name__, name.upper(), name.replace('_', '-')):
        assert find(spelling) == name
  assert catalogue.metrics()['r2_score'] is keras.metrics.R2Score
  assert 'mean' not in catalogue.metrics()
  assert catalogue.metric_name('acuracy') == catalogue.loss_name('') == ''


def test_a_metric_is_reported_under_its_alias_or_in_snake_case():
  shown = [catalogue.shown_name(name) for name in ('RMSE', 'MeanAbsoluteError', 'r2', 'R2Score', 'auc')]
  assert shown == ['rmse', 'mean_absolute_error', 'r2', 'r2_score', 'auc']


@pytest.mark.parametrize(
  ('task', 'field', 'value', 'words'),
  [
    ('classification', 'loss', 'categorical_crossentrpy', "did you mean 'categorical_crossentropy'?"),
    ('classification', 'loss', 'ctc', 'does not fit classification'),
    ('classification', 'loss', 'circle', 'does not fit classification'),
    ('classification', 'loss', 'mape', 'does not fit classification'),
    ('classification', 'metrics', ('accuracy', 'acuracy'), "not a Keras metric; did you mean 'accuracy'?"),
    ('classification', 'metrics', ('accuracy', 3), 'not a name'),
    ('classification', 'label_smoothing', 1.0, 'below 1'),
    ('classification', 'loss_options', '{"gamma": ', 'is not JSON'),
    ('classification', 'metric_options', '[1]', 'must be a JSON object'),
    ('classification', 'normalize', 'standardise', "did you mean 'standardize'?"),
    ('classification', 'image_size', (8,), 'height, width'),
    ('regression', 'loss', 'hubr', "did you mean 'huber'?"),
    ('regression', 'loss', 'binary_crossentropy', 'does not fit regression'),
    ('regression', 'metrics', ('auc',), 'does not fit regression'),
    ('regression', 'metrics', ('rmsee',), "did you mean 'rmse'?"),
  ],
)  # fmt: skip
def test_rules_complain_in_one_line(task, field, value, words):
  complaint = tasks.fields(task)[field].rule(value)
  assert words in complaint
  assert '\n' not in complaint


@pytest.mark.parametrize('task', sorted(tasks.TASKS))
def test_defaults_obey_their_rules(task):
  assert tasks.check_name(task) == ''
  for name, field in tasks.fields(task).items():
    assert not (field.rule and field.rule(field.default)), name


def test_unknown_task_is_named_with_the_nearest():
  assert "did you mean 'regression'?" in tasks.check_name('regresion')
  with pytest.raises(ConfigError, match="did you mean 'classification'"):
    tasks.fields('classfication')


@pytest.mark.parametrize(
  ('task', 'changes', 'words'),
  [
    ('classification', {'metrics': ('auc', 'AUC')}, "names 'auc' twice"),
    ('regression', {'metrics': ('poisson',)}, 'may be negative'),
    ('classification', {'metric_options': '{"auc": {"curve": "PR"}}'}, "has 'auc', which is not in task.metrics"),
    ('classification', {'metrics': ('auc',), 'metric_options': '{"auc": {"curv": "PR"}}'}, "did you mean 'curve'?"),
    ('classification', {'metrics': ('auc',), 'metric_options': '{"auc": {"curve": "X"}}'}, 'metric_options of auc'),
    ('classification', {'metrics': ('auc',), 'metric_options': '{"auc": 3}'}, 'must be a JSON object of arguments'),
    ('classification', {'metrics': ('precision_at_recall',)}, 'precision_at_recall needs recall'),
    ('classification', {'loss': 'mse', 'loss_options': '{"delta": 1}'}, 'does not take'),
    ('classification', {'loss_options': '{"from_logits": false}'}, "has 'from_logits'"),
    ('classification', {'loss': 'hinge', 'label_smoothing': 0.1}, 'takes no task.label_smoothing'),
    ('regression', {'loss': 'cosine_similarity'}, 'there is only one'),
    ('regression', {'metrics': ('pearson_correlation',)}, 'there is only one'),
  ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_named(task, changes, words):
  with pytest.raises(ConfigError) as caught:
    made_up.task(task, **changes)
  assert words in str(caught.value)
  assert '\n' not in str(caught.value)
