"""A function in a process of its own, and each way in which that can end."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from trainer import apart
from trainer.errors import ConfigError, RunAgain


def work(what):
  print('this is dropped')
  if what == 'mistake':
    raise ConfigError('a mistake')
  if what == 'again':
    raise RunAgain('again')
  if what == 'bug':
    raise ZeroDivisionError('a bug')
  if what == 'kill':
    os.kill(os.getpid(), signal.SIGKILL)
  if what == 'sleep':
    time.sleep(600)
  return os.environ.get('OF_ITS_OWN'), os.getpid(), what


def test_the_answer(capfd):
  variable, process, what = apart.call(work, ('a', 1.5), environment={'OF_ITS_OWN': 'yes'})
  assert (variable, what) == ('yes', ('a', 1.5)) and process != os.getpid()
  assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize(('what', 'error'), [('mistake', ConfigError), ('again', RunAgain)])
def test_errors_of_ours_come_through(what, error):
  with pytest.raises(error, match=f'^{"a mistake" if what == "mistake" else "again"}$'):
    apart.call(work, what)


@pytest.mark.parametrize(
  ('what', 'message', 'killed'),
  [
    ('bug', 'its process ended with exit code 1: ZeroDivisionError: a bug', False),
    ('kill', 'its process ended with signal 9: it said nothing', True),
  ],
)
def test_other_ends(what, message, killed):
  with pytest.raises(apart.EndedEarly) as error:
    apart.call(work, what)
  assert (str(error.value), error.value.killed) == (message, killed)


def test_it_ends_when_it_is_no_longer_wanted():
  class Enough(Exception):
    pass

  def between():
    raise Enough

  started = time.monotonic()
  with pytest.raises(Enough):
    apart.call(work, 'sleep', between=between)
  assert time.monotonic() - started < 60


def test_it_ends_with_the_one_that_asked():
  program = """
import sys
from trainer import apart
from tests import test_apart

apart.call(test_apart.say_and_sleep, sys.argv[1])
"""
  read, write = os.pipe()
  other = subprocess.Popen(
    [sys.executable, '-c', program, f'/proc/{os.getpid()}/fd/{write}'], env={**os.environ, 'PYTHONPATH': str(ROOT)}
  )
  assert os.read(read, 1) == b'.'
  os.close(write)
  other.kill()
  other.wait()
  # The pipe's end is reached when nobody has it open any more.
  assert os.read(read, 1) == b''
  os.close(read)


def say_and_sleep(path):
  pipe = open(path, 'w')  # noqa: SIM115 it is to stay open until the process ends
  pipe.write('.')
  pipe.flush()
  time.sleep(600)
