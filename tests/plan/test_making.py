"""A plan's numbers are those of the run; and what it cannot be made for is one line."""

import json
import math

import keras
import pytest
import tensorflow as tf

from trainer import config as config_lib
from trainer import main
from trainer.errors import ConfigError
from trainer.plan import chips, compiler, making
from trainer.runtime import cluster
from trainer.train import session
from trainer.train.workdir import Workdir

BATCH = 12


def config(**changes):
  made = config_lib.base(task='classification', model='mlp')
  made.data.dataset = 'uci_digits'
  made.model.hidden = (20,)
  made.train.update({'steps': 10, 'global_batch_size': BATCH})
  for name, value in changes.items():
    section, field = name.split('__')
    made[section][field] = value
  config_lib.check(made)
  return made


def test_bytes_are_those_of_the_run():
  made = config(optimizer__ema_decay=0.9)
  plan = making.make(made)
  live = session.build(made, cluster.discover(made))
  held = plan['bytes_per_replica']
  for part, prefix in (('weights', 'model/'), ('optimizer', 'optimizer/'), ('ema', 'ema/')):
    arrays = (value for name, value in live.state.snapshot().items() if name.startswith(prefix))
    assert held[part] == sum(array.nbytes for array in arrays), part
  assert plan['checkpoint']['bytes'] == sum(array.nbytes for array in live.state.snapshot().values())
  batch = next(iter(live.pipeline.train(live.strategy, 0)))
  assert held['batch'] == sum(part.numpy().nbytes for part in tf.nest.flatten(batch))
  assert plan['parameters']['all'] == live.model.count_params() == 64 * 20 + 20 + 20 * 10 + 10
  assert sum(plan['parameters']['by_block'].values()) == plan['parameters']['all']
  # Forward, and backward but for the gradient of the images.
  assert plan['flops_per_step_and_replica'] == 2 * BATCH * (2 * 64 * 20 + 3 * 20 * 10)
  model_flops = 3 * 2 * BATCH * (64 * 20 + 20 * 10)
  assert plan['model_flops_per_step_and_replica'] == model_flops and not plan['model_flops_not_counted']
  assert plan['flops_of_model_flops'] == plan['flops_per_step_and_replica'] / model_flops
  assert plan['target'] is None and plan['estimate']['step_seconds'] is None


def test_replicas_share_the_batch():
  plan = making.make(config(cluster__cpu_devices=4))
  assert plan['replicas'] == 4 and plan['examples_per_replica'] == 3
  assert plan['flops_per_step_and_replica'] == 2 * 3 * (2 * 64 * 20 + 3 * 20 * 10)


def test_micro_batches_are_as_much_work():
  assert (
    making.make(config(train__micro_batches=4))['flops_per_step_and_replica']
    == making.make(config())['flops_per_step_and_replica']
  )


class InPython(keras.layers.Layer):
  def call(self, x):
    return tf.ensure_shape(tf.numpy_function(lambda y: y, [x], tf.float32), x.shape)


def in_python(units):
  return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(units), InPython()])


def test_what_xla_cannot_compile_is_counted_by_formula_alone():
  made = config()
  with made.unlocked():
    made.model = config_lib.base(task='classification', model='tests.plan.test_making:in_python').model
  with pytest.raises(ConfigError, match=r'XLA cannot compile the step, .* unsupported operations .*PyFunc') as error:
    making.make(made)
  assert '\n' not in str(error.value)
  found = making.products(made, 1)
  assert found.model.flops == 3 * 2 * BATCH * 64 * 10 and found.program is None and 'XLA cannot' in found.why_not
  assert [text.split()[0] for text in found.model.not_counted] == ['PyFunc']


def test_epochs_are_known_where_the_set_is(data_dir):
  made = config(data__data_dir=str(data_dir))
  session.build(made, cluster.discover(made))  # prepares it
  data = making.make(made)['data']
  assert data['examples'] == 1437 and math.isclose(data['epochs'], 10 * BATCH / 1437)


def test_a_save_that_takes_longer_than_the_grace_is_a_warning():
  (text,) = [w for w in making.make(config(faults__grace_seconds=1e-6))['warnings'] if 'grace' in w]
  assert 'more than faults.grace_seconds=1e-06' in text


def test_the_mode_writes_a_file(tmp_path, capsys):
  arguments = ['trainer', '--config=configs/digits_mlp.py', f'--workdir={tmp_path}/new', '--mode=plan']
  assert main.run(arguments) == 0
  plan = json.loads((tmp_path / 'new/plan.json').read_text())
  assert plan['version'] == making.VERSION and plan['config']['model']['name'] == 'mlp'
  out = capsys.readouterr().out
  assert 'Plan; nothing was started.' in out and f'{plan["flops_of_model_flops"]:.3f} of the model FLOPs' in out
  assert [path.name for path in (tmp_path / 'new').iterdir()] == ['plan.json']
  Workdir(f'{tmp_path}/new').claim()  # and the run may follow in the same directory
  (tmp_path / 'file').touch()
  assert main.run([*arguments[:2], f'--workdir={tmp_path}/file', '--mode=plan']) == 2
  assert '/file cannot be written to' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('target', 'message'),
  [
    ('v6', "no chip that a plan can be made for; did you mean 'v6e'"),
    ('h100', "must be a GPU and how many of them, e.g. 'h100:8'"),
    ('h100:2x2', 'must be a GPU and how many of them'),
    ('h10', "did you mean 'h100'"),
    ('v5e', "must be a kind and a slice, e.g. 'v5e:2x2'"),
    ('v5e:0x2', 'must be a kind and a slice'),
    ('v5e:2x2x1', "a slice of v5e is written like 'v5e:2x2'"),
    ('v4:2x2', "a slice of v4 is written like 'v4:2x2x1'"),
  ],
)
def test_targets_that_are_none(target, message):
  with pytest.raises(ConfigError) as error:
    making.make(config(), target)
  assert message in str(error.value) and '\n' not in str(error.value)


def test_targets():
  assert chips.target('v5e:4x4').chips == 16
  eight = chips.target('h100:8')
  assert eight.chips == 8 and eight.chip.device == 'gpu'
  one = chips.target('v4:1')
  assert one.chips == 1 and one.topology == '2x2x1'


def test_what_a_tpu_or_its_compiler_refuses(monkeypatch):
  monkeypatch.setattr(compiler, 'check', lambda target: None)
  with pytest.raises(ConfigError, match=r'is not divisible by 16 replicas'):
    making.make(config(), 'v5e:4x4')
  with pytest.raises(ConfigError, match='a TPU computes in bfloat16'):
    making.make(config(precision__policy='mixed_float16'), 'v5e:1')
  with pytest.raises(ConfigError, match=r"precision.xla='off'"):
    making.make(config(precision__xla='off'), 'v5e:1')


def test_a_compiler_that_is_missing_or_of_another_version(monkeypatch):
  monkeypatch.setattr(compiler.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ConfigError, match=r"pip install 'tf-trainer\[plan-tpu\]'"):
    making.make(config(), 'v5e:1')
  with pytest.raises(ConfigError, match=r"pip install 'tf-trainer\[plan-gpu\]'"):
    making.make(config(), 'h100:8')
  monkeypatch.setattr(compiler.importlib.metadata, 'version', lambda name: '0.9.1')
  with pytest.raises(ConfigError, match=r'needs jax 0\.10\.x, and 0\.9\.1 is installed'):
    making.make(config(), 'v5e:1')
