"""Mode plan: what a run would need, before anything is rented. Starts nothing, and needs no accelerator and no data."""

from __future__ import annotations

import json
from typing import Any

from trainer.plan import making, search
from trainer.report import words
from trainer.train.workdir import PLAN, Workdir

# Blocks of a model that are shown; all are in the file.
_BLOCKS = 8


def run(command: Any) -> None:
  """Prints the plan, and writes it to plan.json in the work directory, which is made if need be.

  Args:
    command: what the command line says (trainer/main.py); `target` names the chips, empty for this machine;
      `search` asks for the largest batch.

  Raises:
    ConfigError: the target is unknown, or its compiler is not installed; the config cannot run there; the file cannot
      be written.
  """
  directory = Workdir(command.workdir, command.config.storage)
  if command.search:
    plan, attempts = search.largest(
      command.config, command.target, lambda attempt: print(_attempt(attempt), flush=True)
    )
    plan['search'] = attempts
  else:
    plan = making.make_apart(command.config, command.target) if command.target else making.make(command.config)
  directory.write(PLAN, json.dumps(plan, indent=2))
  rows = [
    *_about_the_run(plan),
    *_about_the_target(plan),
    *_about_the_search(plan),
    *(('warning', text) for text in plan['warnings']),
  ]
  print('Plan; nothing was started.')
  for name, text in [*rows, ('all of it', directory.shown(PLAN))]:
    print(f'  {name:<12}  {text}')


def _about_the_run(plan: dict[str, Any]) -> list[tuple[str, str]]:
  parameters, data, checkpoint = plan['parameters'], plan['data'], plan['checkpoint']
  blocks = [f'{name} {words.count(count)}' for name, count in parameters['by_block'].items()]
  rest = [f'{len(blocks) - _BLOCKS} more'] if len(blocks) > _BLOCKS else []
  held = (f'{name} {words.size(size)}' for name, size in plan['bytes_per_replica'].items())
  speed = words.size(making.ASSUMED_BYTES_PER_SECOND)
  whose = f'examples of {plan["config"]["data"]["dataset"]}' if plan['config']['data']['mixture'] else 'examples'
  share = plan['flops_of_model_flops']
  ratio = words.NOT_MEASURED if share is None else f'{share:.3f}'
  return [
    ('replicas', f'{plan["replicas"]} with {plan["examples_per_replica"]} examples each, {plan["precision"]}'),
    ('parameters', f'{parameters["all"]:,}, {parameters["trainable"]:,} of them trained'),
    ('', ', '.join(blocks[:_BLOCKS] + rest)),
    ('per replica', ', '.join(held)),
    (
      'model FLOPs',
      f'{_flop(plan["model_flops_per_step_and_replica"])} per step and replica by formula: three times the products of '
      'the forward pass',
    ),
    (
      'products',
      f'{_flop(plan["flops_per_step_and_replica"])} in the program that the compiler is given, loops as often as they '
      f'run: {ratio} of the model FLOPs',
    ),
    (
      'checkpoint',
      f'{words.size(checkpoint["bytes"])}, {words.duration(checkpoint["save_seconds"])} at an assumed {speed}/s; '
      f'{words.duration(checkpoint["grace_seconds"])} of grace',
    ),
    (
      'data',
      f'{data["steps"]:,} steps, {words.count(data["epochs"])} epochs of {words.count(data["examples"])} {whose}',
    ),
  ]


def _about_the_target(plan: dict[str, Any]) -> list[tuple[str, str]]:
  target, estimate = plan['target'], plan['estimate']
  if not target:
    return []
  rows = [('target', f'{target["name"]}: {target["chips"]} x {_of_memory(target["memory_bytes"])}')]
  if 'argument_bytes' in target:
    parts = ('argument', 'output', 'temporary', 'code')
    collectives = [
      f'{found["count"]} {kind} of {words.size(found["bytes"])} in all' for kind, found in target['collectives'].items()
    ]
    rows += [
      ('per chip', ', '.join(f'{part} {words.size(target[f"{part}_bytes"])}' for part in parts)),
      (
        'step',
        f'{target["bound"]}-bound; by the compiler, which counts loops once, {_flop(target["flops_loops_once"])} and '
        f'{words.size(target["accessed_bytes_loops_once"])} moved'
        if target['bound']
        else 'this compiler counts no operations, and no bytes that are moved',
      ),
      ('collectives', ', '.join(collectives) or 'none'),
      (
        'estimate',
        f'{words.duration(estimate["step_seconds"])} per step, {estimate["days"]:.3g} days in all, with '
        f'{making.ASSUMED_HFU:.0%} of the stated peak (HFU) assumed; collectives '
        f'{words.duration(estimate["collective_seconds"])} by stated links; not measured',
      ),
    ]
  return [*rows, ('verdict', 'fits')] if target['fits'] else rows


def _about_the_search(plan: dict[str, Any]) -> list[tuple[str, str]]:
  """The largest batch that fits, as flags, and what fits with blocks that are computed twice."""
  attempts = sorted(plan.get('search', ()), key=lambda attempt: attempt['examples_per_chip'])
  largest = {attempt['remat']: attempt for attempt in attempts if attempt['fits']}
  rows: list[tuple[str, str]] = []
  for remat, attempt in largest.items():
    batch = attempt['examples_per_chip'] * plan['replicas']
    flags = [f'--config.train.global_batch_size={batch}', *([f'--config.model.remat={remat}'] if remat else [])]
    rows.append(
      (
        'largest' if not rows else '',
        f'{attempt["examples_per_chip"]} examples per chip, {_of_memory(attempt["needed_bytes"])}: {" ".join(flags)}',
      )
    )
  if rows:
    rows.append(('', f'{len(attempts)} programs in {words.duration(sum(a["seconds"] for a in attempts))}'))
  return rows


def _attempt(attempt: dict[str, Any]) -> str:
  needed = attempt['needed_bytes']
  parts = [f'{attempt["examples_per_chip"]} examples per chip']
  if attempt['remat'] is not None:
    parts.append(f'model.remat={attempt["remat"]}')
  if attempt['fits'] is None:
    found = 'not known, since the process that compiled it was killed'
  else:
    size = _of_memory(needed) if needed is not None else 'more than there is, by the compiler'
    found = f'{size}, {"fits" if attempt["fits"] else "does not fit"}'
  return f'Tried {", ".join(parts)}: {found} ({words.duration(attempt["seconds"])})'


def _of_memory(size: float) -> str:
  """In the unit in which a chip's memory is stated."""
  return f'{size / 2**30:.2f} GiB'


def _flop(number: float) -> str:
  return f'{words.count(number)}FLOP'
