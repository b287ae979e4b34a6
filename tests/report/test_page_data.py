"""What the report page is made of: curves, distributions, time, pictures, and what is hostile or half written."""

from __future__ import annotations

import configparser
import json
import math
import pathlib
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import ConfigError
from trainer.report import goodput
from trainer.report.page import curves, facts, folder, galleries, making, settings, speed, spent
from trainer.train.workdir import Workdir

from . import page_run

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run_script(*args: object) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [sys.executable, str(ROOT / 'scripts/report'), *map(str, args)], capture_output=True, text=True, check=False
  )


@pytest.fixture(scope='module')
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  return page_run.make(tmp_path_factory.mktemp('runs') / 'first')


@pytest.fixture(scope='module')
def run(workdir) -> folder.Run:
  found = folder.read(str(workdir), str(workdir))
  folder.name([found])
  return found


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=400), st.integers(4, 60))
def test_thinning_keeps_both_ends_and_every_extreme(values, most):
  points = [(step, value, float(step)) for step, value in enumerate(values)]
  kept, means = curves.thin(points, most)
  assert len(kept) <= most
  assert kept == sorted(kept)
  assert {points[0], points[-1]} <= set(kept) <= set(points)
  assert min(values) in [value for _, value, _ in kept]
  assert max(values) in [value for _, value, _ in kept]
  assert bool(means) == (len(points) > most)
  assert all(min(values) - 1e-3 <= mean <= max(values) + 1e-3 for _, mean, _ in means)


def test_a_spike_of_one_row_in_a_hundred_thousand_is_drawn(tmp_path):
  rows = [{'step': n, 'split': 'train', 'loss': 900.0 if n == 77_777 else 1.0} for n in range(100_000)]
  found = folder.Run(path='x', folder=str(tmp_path), rows=rows)
  (plot,) = curves.plots([found])
  (series,) = plot['series']
  assert 900.0 in series['y'] and 77_777 in series['x']
  assert series['rows'] == 100_000 and series['kept'] == len(series['x']) <= 1000


def test_plots_are_of_one_metric_each_with_all_its_splits(run):
  plots = {plot['name']: plot for plot in curves.plots([run])}
  assert list(plots)[:2] == ['loss', 'accuracy']
  assert [one['split'] for one in plots['loss']['series']] == ['train', 'eval', 'continuous_eval']
  assert 'examples' not in plots  # the same number each time
  assert plots['step_milliseconds']['section'] == 'speed'
  train, evaluation, beside = plots['loss']['series']
  assert train['bad'] == [40] and train['bads'] == 1 and train['rows'] == 39
  assert evaluation['x'] == [200, 400]  # by step, not in the order of the file
  assert beside['t'] is None and train['t'][0] == 21.0  # seconds from the start of the first attempt


@pytest.mark.parametrize(
  'value', ['"1"', 'true', '[1]', '{"a": 1}', 'NaN', 'Infinity', '1' + '0' * 400, '1e400', 'null', '-0.0']
)
def test_no_value_of_a_row_stops_the_page(tmp_path, value):
  (tmp_path / 'metrics.jsonl').write_text(f'{{"step": 1, "split": "train", "loss": {value}, "<b>": 1}}\n')
  found = folder.read(str(tmp_path), str(tmp_path))
  folder.name([found])
  text = making.page([found], str(tmp_path))
  assert '<b>' not in re.sub(r'<b>step |<b>\d', '', text)
  data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
  assert all(math.isfinite(y) for plot in data['plots'] for one in plot['series'] for y in one['y'])


def test_lines_that_are_torn_or_damaged_are_left_out_and_the_latter_said(tmp_path):
  good = '{"step": 1, "split": "train", "loss": 1.0}'
  rows = [good, 'nothing', '[1]', '{"split": "train"}', good.replace('1,', '2,'), '{"st']
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(rows))
  found = folder.read(str(tmp_path), str(tmp_path))
  assert [row['step'] for row in found.rows] == [1, 2]
  assert found.notices == [
    'metrics.jsonl: line 2 and 1 more cannot be read, and is left out.',
    'metrics.jsonl: 1 lines have no step or no split, and are left out.',
  ]


@pytest.mark.parametrize('name', ['config.json', 'run.json', 'benchmark.json', 'lr_test.json', 'overfit.json'])
@pytest.mark.parametrize('contents', ['', '{"a": ', '[]', '{"attempts": 3, "rates": 7, "losses": {}}', '"x"', '\0\xff'])
def test_a_file_that_is_not_what_it_should_be_does_not_stop_the_page(tmp_path, name, contents):
  (tmp_path / name).write_text(contents)
  found = folder.read(str(tmp_path), str(tmp_path))
  folder.name([found])
  assert making.page([found], str(tmp_path)).count('<h2') >= 8


def test_the_histogram_has_every_row_and_names_the_percentiles(tmp_path):
  rows = [{'step': n, 'split': 'train', 'step_milliseconds': float(n)} for n in range(1, 101)]
  rows.append({'step': 101, 'split': 'train', 'step_milliseconds': 1e6})
  found = folder.Run(path='x', folder=str(tmp_path), rows=rows)
  one, none = speed.distributions([found, folder.Run(path='y', folder=str(tmp_path))])
  assert none is None and one is not None
  assert sum(count for _, _, count in one['bins']) == one['rows'] == 101
  assert (one['p50'], one['p90'], one['p99']) == (51, 91, 100)
  assert one['most'] == 1e6 and one['open'] and one['high'] == 150


def test_slices_of_the_time_add_up_to_the_buckets(run):
  attempts = run.ledgers[0]
  begin, end = attempts[0].begin, attempts[-1].last_sign
  slices = spent._slices(attempts, begin, end)
  seconds = goodput.summarize(attempts).seconds
  for bucket in goodput.BUCKETS:
    assert sum(part.get(bucket, 0.0) for part in slices) == pytest.approx(seconds[bucket], abs=1e-3)
  width = (end - begin) / spent.COLUMNS
  assert all(sum(part.values()) == pytest.approx(width, abs=1e-3) for part in slices)


def test_each_attempt_says_how_it_ended(run):
  view = spent.view(run)
  assert view is not None
  assert [row['end'] for row in view['attempts']] == [
    'stopped, to be run again (exit code 75)', 'killed, without a last word',
  ]  # fmt: skip
  assert [row['down'] for row in view['attempts']] == [5.0, None]
  assert view['curve']['y'][-1] == pytest.approx(100 * view['summary'].goodput, abs=0.1)


@pytest.mark.parametrize('number', ['Infinity', 'NaN', '1e400'])
@pytest.mark.parametrize('field', ['"begin": 1.0', '"seconds": 1.0'])
def test_times_that_are_not_finite_are_no_times(tmp_path, field, number):
  lines = [
    '{"kind": "attempt", "time": 1.0, "pid": 1, "host": [7], "worker": 0}',
    '{"kind": "span", "name": "build", "begin": 1.0, "seconds": 1.0, "first": 0, "last": 0}',
    '{"kind": "span", "name": "build", "begin": 1.0, "seconds": 1.0, "first": 0, "last": 0}\n',
  ]
  text = '\n'.join(lines)
  (tmp_path / 'ledger.jsonl').write_text(text)
  found = folder.read(str(tmp_path), str(tmp_path))
  folder.name([found])
  assert spent.view(found) is not None and '[7]' in making.page([found], str(tmp_path))
  (tmp_path / 'ledger.jsonl').write_text(text.replace(field, f'{field.split(":")[0]}: {number}', 1))
  found = folder.read(str(tmp_path), str(tmp_path))
  assert found.ledgers == {} and found.notices == ['ledger.jsonl has times that are not finite, and is left out.']


def test_the_head_says_what_the_run_is(run):
  head = facts.view(run)
  assert head['about'] == 'classification: cnn on uci_digits'
  assert (head['step'], head['steps'], head['done']) == (400, 800, 0.5)
  assert (head['best_name'], head['best'], head['best_step']) == ('accuracy', '0.9000', 400)
  assert head['state'] == ('stopped, to be run again (exit code 75)', 'warn')
  assert head['commit'] == 'c0ffeec0ffee, with changes'
  assert dict(head['facts'])['model'] == 'cnn, 200 values in its variables'
  (topology,) = facts.topologies(run)  # two attempts on the same
  assert (topology['first'], topology['last'], topology['started']) == (1, 2, '2023-11-14 22:13:20 UTC')
  assert [one['step'] for one in facts.checkpoints(run, run.folder)] == [400]
  assert facts.checkpoints(run, f'{run.folder}/a')[0]['link'] == './../checkpoints/400'


def test_configs_side_by_side_show_what_differs():
  left, right = {'a': 1, 'b': {'c': [1], 'd': 'x'}}, {'a': 1, 'b': {'c': [2]}}
  assert settings.differences([left, right]) == [('b.c', ['[1]', '[2]']), ('b.d', ['x', None])]
  assert settings.sections(left) == [('', [('a', '1')]), ('b', [('c', '[1]'), ('d', 'x')])]


def test_runs_have_the_shortest_names_that_differ():
  runs = [folder.Run(path=path, folder='') for path in ('/x/a/run', '/x/b/run', 'gs://bucket/c', '/x/a/run')]
  folder.name(runs[:3])
  assert [run.name for run in runs[:3]] == ['a/run', 'b/run', 'bucket/c']
  folder.name(runs)
  assert len({run.name for run in runs}) == 4


def test_pictures_keep_to_their_budget_and_what_is_left_out_is_said(run):
  everything = galleries.view([run], 10_000_000)
  assert [one['left_out'] for one in everything] == [0] * 5
  some = galleries.view([run], 12_000)
  predictions = next(one for one in some if one['kind'] == 'predictions')
  assert 0 < predictions['left_out'] < 30 == predictions['entries']
  text = ' '.join(making.page([run], run.folder, picture_bytes=12_000).split())
  assert f'{predictions["left_out"]} of 30 entries are left out' in text
  small, large = (len(making.page([run], run.folder, picture_bytes=size)) for size in (12_000, 10_000_000))
  assert small + 5_000 < large


def test_a_gallery_names_no_file_outside_of_it(tmp_path):
  (tmp_path / 'secret.png').write_bytes(b'\x89PNG\r\n\x1a\n' + b'secret' * 9)
  inside = tmp_path / 'samples'
  inside.mkdir()
  (inside / 'link.png').symlink_to(tmp_path / 'secret.png')
  (inside / 'page.png').write_text('<html>')
  names = ['../secret.png', str(tmp_path / 'secret.png'), 'link.png', 'page.png', 'none.png', 7, None]
  parts = [{'title': 'p', 'kind': 'image', 'file': name} for name in names]
  index = {'title': None, 'entries': [{'title': 'e', 'parts': parts}, 3, {'parts': 'x'}]}
  (inside / 'gallery.json').write_text(json.dumps(index))
  found = folder.read(str(tmp_path), str(tmp_path))
  (gallery,) = galleries.view([found], 1_000_000)
  ((_, entries, _),) = gallery['groups']
  assert [part['kind'] for part in entries[0]['parts']] == ['text'] * len(names)
  assert 'c2VjcmV0' not in making.page([found], str(tmp_path))


def test_a_confusion_matrix_of_many_classes_is_told_by_its_largest_confusions():
  names = [f'class {n}' for n in range(50)]
  counts = [[100 if i == j else 9 if (i, j) == (3, 4) else 0 for j in range(50)] for i in range(50)]
  found = galleries.confusion({'names': names, 'counts': counts})
  assert found is not None and found['rows'] == []
  assert found['pairs'] == [('class 3', 'class 4', 9)]
  assert galleries.confusion({'names': names, 'counts': counts[:-1]}) is None
  assert galleries.confusion({'names': ['a'], 'counts': [['x']]}) is None


def test_the_page_is_text_where_data_is_hostile_and_allows_its_own_script_alone(run):
  text = making.page([run], run.folder, command='scripts/report "<x>"')
  assert text.count('<script') == text.count('</script>') == 2
  assert '<img src="https' not in text and 'onerror="window' not in text
  assert '&lt;script&gt;window.hacked' in text
  assert "default-src 'none'" in text
  outside = re.findall(r'(?:src|href)="(?!data:|#|\./)([^"]*)"', text)
  assert outside == []


def test_the_script_writes_the_page_into_the_work_directory(workdir):
  done = run_script(workdir)
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.startswith(f'{workdir}/report.html (')
  assert (workdir / 'report.html').read_text().startswith('<!doctype html>')


def test_a_directory_that_holds_no_run_is_one_line(tmp_path, workdir):
  (tmp_path / 'file').write_text('x')
  for path in (tmp_path, tmp_path / 'none', tmp_path / 'file'):
    with pytest.raises(ConfigError, match=f'^{path} [^\n]+: name the --workdir of a run$'):
      folder.read(str(path), str(path))
  done = run_script(workdir, tmp_path)
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr.startswith(f'error: {tmp_path} holds no run') and done.stderr.count('\n') == 1
  done = run_script(workdir, f'--out={tmp_path}/none/page.html')
  assert done.returncode == 2 and done.stderr.count('\n') == 1


def test_a_page_beside_a_benchmark_is_no_reason_to_refuse_a_run(tmp_path):
  (tmp_path / 'report.html').write_text('x')
  directory = Workdir(str(tmp_path))
  directory.claim()
  directory.close()


def test_the_files_of_the_page_are_in_the_package():
  options = configparser.ConfigParser()
  options.read(ROOT / 'setup.cfg')
  patterns = options['options.package_data']['trainer.report.page'].split()
  files = [path for path in (ROOT / 'trainer/report/page').iterdir() if path.suffix not in ('.py', '')]
  assert {path.suffix for path in files} == {'.html', '.css', '.js'}
  assert all(any(path.match(pattern) for pattern in patterns) for path in files)
