"""What is measured of one candidate for precision and XLA, in a process of its own (candidates.py)."""

from __future__ import annotations

from typing import Any


def measure(config: Any, number: int, windows: int, with_losses: bool) -> dict[str, Any]:
  """Measures a candidate of those that the devices can do.

  Args:
    config: the run's, checked.
    number: of the candidate, in the order of `precision.candidates`.
    windows: how many of `benchmark.window_seconds`, with the input that the run would have.
    with_losses: whether to train FIRST_STEPS steps without dropout before, to tell the losses.

  Returns:
    'policy', 'xla', those of all 'candidates', the 'key' in the cache, 'device', 'workers', 'replicas', 'chief';
    'speed' as summary.of_windows has it, with 'input'; 'first_losses', None without; 'first_step', 'settled', 'others',
    'throttling' and 'memory' as in benchmark.json.

  Raises:
    ConfigError: a mistake of the user's, or the candidate cannot be.
  """
  from trainer.data.pipeline import DATA_ERRORS
  from trainer.errors import ConfigError
  from trainer.measure.first_losses import first_losses
  from trainer.measure.run import Measurement
  from trainer.runtime import agreement, cluster, measured, precision
  from trainer.train import session as session_lib

  where = cluster.discover(config)
  found = precision.candidates(config, where)
  if len(found) < 2:
    raise ConfigError(
      f'--search: {where.device_kind.upper()}s leave no choice here with precision.policy={config.precision.policy!r} '
      f"and precision.xla={config.precision.xla!r}: set what may be tried to 'auto', or leave the flag out"
    )
  key = measured.key(config, where)
  policy, xla = found[number]
  with config.unlocked():
    config.precision.policy, config.precision.xla = policy, xla
    config.benchmark.windows = windows
  session = session_lib.build(config, where, kept={})
  try:
    losses = first_losses(session) if with_losses else None
    measurement = Measurement(session, only_own=True)
    first_step = measurement.first_steps()
    warm_up = measurement.warm_up()
    inputs, others, slowed = measurement.inputs()
    if session.precision.xla:
      # Evaluation is compiled too. What cannot be must not come out when a run has been trained.
      session.evaluator().try_first_batch()
  except DATA_ERRORS as error:
    raise session.pipeline.corrupt(error) from error
  agreement.all_true(session.strategy, where, True)  # nobody ends before the others are done
  return {
    'policy': policy,
    'xla': xla,
    'candidates': found,
    'device': where.device_kind,
    'replicas': where.replicas,
    'workers': where.num_workers,
    'chief': where.is_chief,
    'key': key,
    'speed': inputs[measurement.own],
    'input': measurement.own,
    'first_losses': losses,
    'first_step': first_step,
    'settled': warm_up[measurement.own]['settled'],
    'others': others,
    'throttling': slowed,
    'memory': measurement.memory(),
  }
