from __future__ import annotations

import datetime
import json
import os
import subprocess

import pytest

import trainer
from trainer.errors import ConfigError
from trainer.report import run_record


def git(folder, *args) -> str:
  names = ['-c', 'user.name=a', '-c', 'user.email=a@b.c', '-c', 'commit.gpgsign=false']
  done = subprocess.run(['git', '-C', str(folder), *names, *args], check=True, capture_output=True, text=True)
  return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
  package = tmp_path / 'checkout' / 'package'
  package.mkdir(parents=True)
  (package / 'file.py').write_text('1')
  git(tmp_path / 'checkout', 'init', '-q')
  git(tmp_path / 'checkout', 'add', '.')
  git(tmp_path / 'checkout', 'commit', '-q', '-m', 'first')
  return package


def test_each_attempt_adds_a_record(tmp_path):
  path = str(tmp_path / 'run.json')
  run_record.append(path, {'strategy': 'one'})
  second = run_record.append(path, {'strategy': 'mirrored'})
  attempts = run_record.read(path)
  assert [attempt['strategy'] for attempt in attempts] == ['one', 'mirrored']
  assert attempts[1] == second
  assert attempts[0]['host']
  started = datetime.datetime.fromisoformat(attempts[0]['started'])
  assert abs((datetime.datetime.now(datetime.UTC) - started).total_seconds()) < 60
  assert os.listdir(tmp_path) == ['run.json']


def test_versions_are_those_of_the_distributions():
  found = run_record.versions()
  assert found['trainer'] == trainer.__version__
  assert {'python', 'keras', 'numpy', 'orbax-checkpoint', 'tensorflow-datasets'} <= found.keys()
  assert {'tensorflow', 'tensorflow-tpu'} & found.keys()


def test_no_environment_is_recorded(tmp_path, monkeypatch):
  monkeypatch.setenv('SOME_API_TOKEN', 'hunter2-secret')
  run_record.append(str(tmp_path / 'run.json'), {})
  assert 'hunter2' not in (tmp_path / 'run.json').read_text()


def test_the_commit_and_what_differs_from_it(checkout):
  commit = git(checkout, 'rev-parse', 'HEAD')
  assert run_record.git_state(str(checkout)) == {'commit': commit, 'dirty': False}
  (checkout / 'file.py').write_text('2')
  assert run_record.git_state(str(checkout)) == {'commit': commit, 'dirty': True}


def test_a_folder_that_only_lies_in_a_checkout_has_no_commit(checkout):
  installed = checkout.parent / '.venv' / 'site-packages' / 'trainer'
  installed.mkdir(parents=True)
  (installed / 'file.py').write_text('1')
  assert run_record.git_state(str(installed)) is None


def test_without_git_or_checkout_there_is_no_error(tmp_path, checkout, monkeypatch):
  monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path))
  outside = tmp_path / 'outside'
  outside.mkdir()
  assert run_record.git_state(str(outside)) is None
  monkeypatch.setenv('PATH', str(outside))
  assert run_record.git_state(str(checkout)) is None


@pytest.mark.parametrize('text', ['', '{"attempts": 3}', '[]', '{"attempts": [', '{}'])
def test_a_damaged_record_is_kept_aside_and_a_new_one_begun(tmp_path, text):
  path = tmp_path / 'run.json'
  path.write_text(text)
  with pytest.raises(ConfigError, match='is not a record of attempts'):
    run_record.read(str(path))
  run_record.append(str(path), {})
  assert len(json.loads(path.read_text())['attempts']) == 1
  assert (tmp_path / 'run.json.damaged').read_text() == text


def test_an_unwritable_place_is_one_clear_line(tmp_path):
  with pytest.raises(ConfigError, match='cannot be written to: No such file or directory'):
    run_record.append(str(tmp_path / 'missing' / 'run.json'), {})


def test_the_record_of_a_run_with_many_attempts_is_bounded(tmp_path):
  path = str(tmp_path / 'run.json')
  with open(path, 'w') as file:
    json.dump({'attempts': [{'number': number} for number in range(300)]}, file)
  run_record.append(path, {'number': 300})
  numbers = [attempt['number'] for attempt in run_record.read(path)]
  assert numbers == [0, *range(102, 301)]
