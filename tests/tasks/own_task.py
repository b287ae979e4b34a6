"""A task as a user writes it, outside of the package, and names that give none."""

from trainer.fields import Field
from trainer.tasks import regression

FIELDS = {**regression.FIELDS, 'times': Field(2.0, 'what the loss is multiplied by')}


class Louder(regression.Regression):
  def __init__(self, config, features, examples, saved):
    super().__init__(config, features, examples, saved)
    self._times = config.task.times

  def losses(self, outputs, batch):
    return self._times * super().losses(outputs, batch)


def no_task(config, features, examples, saved):
  return 'a task'
