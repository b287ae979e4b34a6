"""The page itself: what is known of the runs, put into page.html with its style and its script inside."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import shlex
import time
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

import trainer
from trainer.report import words
from trainer.report.gallery import EXPLANATIONS, INPUTS, PREDICTIONS, SAMPLES
from trainer.report.page import checks, curves, facts, galleries, settings, speed, spent
from trainer.report.page.folder import CONTINUOUS, CONTINUOUS_SPLIT, Run

PICTURE_BYTES = 2_500_000
_COLOURS = 8  # that page.css has for runs
_GOLDEN_ANGLE = 137.508
_SCRIPTS = ('numbers.js', 'plot.js', 'page.js')  # one after the other, in one scope
_HERE = os.path.dirname(os.path.abspath(__file__))

# The mode that makes each kind of gallery.
MODES = {SAMPLES: 'samples', INPUTS: 'inspect', PREDICTIONS: 'predict --pictures', EXPLANATIONS: 'explain'}


def page(runs: Sequence[Run], page_folder: str, *, picture_bytes: int = PICTURE_BYTES, command: str = '') -> str:
  """The HTML of a report.

  Args:
    runs: at least one, named (folder.name).
    page_folder: where the page will lie; links to checkpoints go from there.
    picture_bytes: that galleries may take.
    command: that makes the page again.
  """
  script = f"(() => {{\n'use strict';\n{''.join(map(_file, _SCRIPTS))}}})();"
  views = [
    {'number': number, **_view(run, number, page_folder), 'speed': distribution}
    for number, (run, distribution) in enumerate(zip(runs, speed.distributions(runs), strict=True))
  ]
  plots = curves.plots(runs)
  plots += _plots_of(views)
  for number, plot in enumerate(plots):
    plot['id'] = number
  shown = galleries.view(runs, picture_bytes)
  return (
    _environment()
    .get_template('page.html')
    .render(
      runs=views,
      single=len(runs) == 1,
      plots=plots,
      data={'runs': [view['name'] for view in views], 'plots': [_drawn(plot) for plot in plots]},
      galleries=shown,
      kinds=[(kind, MODES[kind], [one for one in shown if one['kind'] == kind]) for kind in MODES],
      differences=settings.differences([run.config for run in runs]) if len(runs) > 1 else [],
      picture_bytes=picture_bytes,
      title=runs[0].name if len(runs) == 1 else f'{len(runs)} runs side by side',
      colours=[(n, round(n * _GOLDEN_ANGLE) % 360) for n in range(_COLOURS, len(runs))],
      made=spent.clock(time.time()),
      version=trainer.__version__,
      command=command,
      continuous=CONTINUOUS,
      style=Markup(_file('page.css')),
      script=Markup(script),
      script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
  )


@functools.cache
def _environment() -> jinja2.Environment:
  """Templates that escape all that they are given, and refuse what they are not given."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    'count': words.count,
    'duration': words.duration,
    'value': words.value,
    'milliseconds': words.milliseconds,
    'percent': lambda share: words.NOT_MEASURED if share is None else f'{100 * share:.1f} %',
    'whole': lambda number: f'{number:,}',
  }
  environment.globals['command_of'] = _command_of
  return environment


def _view(run: Run, number: int, page_folder: str) -> dict[str, Any]:
  """All that is shown of one run by itself, but its galleries."""
  return {
    'name': run.name,
    'path': run.path,
    'notices': run.notices,
    'head': facts.view(run),
    'spent': spent.view(run),
    'topologies': facts.topologies(run),
    'config': settings.sections(run.config),
    'benchmark': checks.benchmark(run),
    'lr_test': checks.lr_test(run, number),
    'overfit': checks.overfit(run, number),
    'bad_steps': run.bad_steps,
    'checkpoints': facts.checkpoints(run, page_folder),
    'files': facts.files(run, page_folder),
    'has_rows': any(row['split'] != CONTINUOUS_SPLIT for row in run.rows),
    'has_continuous': any(row['split'] == CONTINUOUS_SPLIT for row in run.rows),
  }


def _command_of(workdir: str, mode: str = '') -> str:
  command = f'.venv/bin/python -m trainer --config=CONFIG --workdir={shlex.quote(workdir)}'
  return f'{command} --mode={mode}' if mode else command


def _plots_of(views: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """The plots that are not of rows: goodput, of all runs in one, and the checks', each by itself."""
  found = []
  series = [
    {'run': view['number'], 'split': 'goodput', 'x': curve['t'], 'y': curve['y'], 't': curve['t'],
     'rows': len(curve['t']), 'kept': len(curve['t']), 'bad': [], 'bads': 0}
    for view in views
    if view['spent'] and (curve := view['spent']['curve'])['t']
  ]  # fmt: skip
  if series:
    found.append({'name': 'goodput so far', 'section': 'time', 'unit': '%', 'axis': 'time', 'series': series})
  for view in views:
    for name in ('lr_test', 'overfit'):
      if view[name]:
        found.append(view[name]['plot'])
  return found


def _drawn(plot: dict[str, Any]) -> dict[str, Any]:
  """Of a plot what the script needs."""
  unused = ('last', 'least', 'largest')
  series = [{name: value for name, value in one.items() if name not in unused} for one in plot['series']]
  keys = ('id', 'name', 'section', 'unit', 'axis', 'logx')
  return {**{key: plot[key] for key in keys if key in plot}, 'series': series}


def _file(name: str) -> str:
  with open(os.path.join(_HERE, name), encoding='utf-8') as file:
    return file.read()


def write(path: str, text: str) -> None:
  """Writes a page whole.

  Raises:
    OSError: it cannot be written.
  """
  temporary = f'{path}.tmp'
  try:
    with open(temporary, 'w', encoding='utf-8', errors='backslashreplace') as file:
      file.write(text)
    os.replace(temporary, path)
  finally:
    if os.path.exists(temporary):
      os.unlink(temporary)
