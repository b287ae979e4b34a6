"""A task by import path, and what does not lead to one."""

import numpy as np
import pytest

from tests.tasks import made_up
from trainer import tasks
from trainer.errors import ConfigError

LOUDER = 'tests.tasks.own_task:Louder'


def test_a_task_by_import_path_has_the_fields_of_its_module():
  assert tasks.fields(LOUDER)['times'].default == 2.0
  assert tasks.check_name(LOUDER) == ''
  task, plain = made_up.task(LOUDER, made_up.vectors(), times=3.0), made_up.task('regression', made_up.vectors())
  outputs, batch = made_up.batch(plain, 'regression')
  np.testing.assert_allclose(task.losses(outputs, batch), 3 * plain.losses(outputs, batch), rtol=1e-6)


@pytest.mark.parametrize(
  ('path', 'words'),
  [
    ('tests.tasks.own_task:Loudr', "did you mean 'Louder'?"),
    ('tests.tasks.own_tsk:Louder', "did you mean 'tests.tasks.own_task'?"),
  ],
)
def test_a_path_that_leads_nowhere_names_the_nearest(path, words):
  with pytest.raises(ConfigError) as caught:
    tasks.fields(path)
  assert words in str(caught.value) and '\n' not in str(caught.value)


def test_what_is_no_task_is_named():
  assert 'is not a function or a class' in tasks.check_name('tests.tasks.own_task:FIELDS')
  with pytest.raises(ConfigError, match='gave a str'):
    made_up.task('tests.tasks.own_task:no_task', made_up.vectors())
