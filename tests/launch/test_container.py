"""The Dockerfile, instruction by instruction; scripts/check_container carries it out."""

from __future__ import annotations

import fnmatch
import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.launch import pages

ROOT = pathlib.Path(__file__).resolve().parents[2]

sys.path.insert(0, str(ROOT / 'scripts'))
import dockerfile  # noqa: E402
import manifests  # noqa: E402

sys.path.remove(str(ROOT / 'scripts'))


@pytest.fixture(scope='module')
def steps() -> list[dockerfile.Instruction]:
  return dockerfile.parse((ROOT / 'Dockerfile').read_text())


def last(steps: list[dockerfile.Instruction], name: str) -> dockerfile.Instruction:
  return [step for step in steps if step.name == name][-1]


def test_what_is_copied_is_there_is_not_ignored_and_is_committed(steps):
  lines = (ROOT / '.dockerignore').read_text().split()
  assert lines[0] == '*'
  kept = {line.removeprefix('!') for line in lines if line.startswith('!')}
  sources = [source for step in steps if step.name == 'COPY' for source in step.words[:-1]]
  assert sources
  for source in sources:
    assert (ROOT / source).exists(), source
    assert source.split('/')[0] in kept, source
    assert (
      subprocess.run(['git', '-C', str(ROOT), 'ls-files', '--error-unmatch', source], capture_output=True).returncode
      == 0
    )
  assert all((ROOT / name).exists() for name in kept)
  assert not any(fnmatch.fnmatch('.venv', pattern) for pattern in kept)


def test_nothing_runs_as_root(steps):
  names = [step.name for step in steps]
  user = last(steps, 'USER')
  assert re.fullmatch('[1-9][0-9]*:[1-9][0-9]*', user.text)  # by number, so that Kubernetes can see that it is not root
  made = next(step for step in steps if step.name == 'RUN').text
  assert f'useradd --create-home --uid {user.text.split(":")[0]} ' in made
  assert names.index('USER') < min(place for place, name in enumerate(names) if name == 'COPY')
  assert all(step.flags.get('chown') == user.text for step in steps if step.name == 'COPY')
  assert manifests.Values('a', 'b', ()).user == int(user.text.split(':')[0])


def test_the_base_is_pinned_and_layers_are_small(steps):
  assert re.fullmatch(r'debian:bookworm-[0-9]{8}-slim', steps[0].text)
  install = next(step.text for step in steps if step.name == 'RUN' and 'apt-get' in step.text)
  assert '--no-install-recommends' in install
  assert install.index('apt-get install') < install.index('rm -rf /var/lib/apt/lists/*')
  assert 'PIP_NO_CACHE_DIR=1' in ' '.join(step.text for step in steps if step.name == 'ENV')
  packages = next(place for place, step in enumerate(steps) if 'prepare_environment run' in step.text)
  project = next(place for place, step in enumerate(steps) if step.name == 'COPY' and step.words[0] == 'trainer')
  assert packages < project
  # What the packages are installed from is there before they are.
  before = [source for step in steps[:packages] if step.name == 'COPY' for source in step.words[:-1]]
  assert {'setup.cfg', 'requirements', 'scripts/environment.sh', 'trainer/__init__.py', 'README.md', 'NOTICE'} <= set(
    before
  )


def test_what_is_run_exists(steps):
  entry, health = last(steps, 'ENTRYPOINT'), dockerfile.parse(last(steps, 'HEALTHCHECK').text)[0]
  for words in (entry.words, health.words):
    assert os.access(ROOT / words[0], os.X_OK), words
  assert entry.words == ['scripts/supervise', '--']
  command = last(steps, 'CMD').words
  assert (ROOT / command[0].removeprefix('--config=')).exists()
  assert command[1].startswith(f'--workdir={last(steps, "VOLUME").text}/')
  script = next(step.text for step in steps if 'prepare_environment' in step.text)
  syntax = subprocess.run(['bash', '-n', '-c', script.split("'")[1]], capture_output=True, text=True)
  assert (syntax.returncode, syntax.stderr) == (0, '')
  assert 'prepare_environment()' in (ROOT / 'scripts' / 'environment.sh').read_text()


def test_a_line_that_is_no_instruction_is_refused():
  with pytest.raises(ValueError, match=r"'run apt-get update' is no instruction"):
    dockerfile.parse('FROM a:1\nrun apt-get update\n')


def test_the_page_names_what_there_is(steps):
  found = pages.commands('container')
  devices = {match[1] for line in found if (match := re.search('--build-arg=DEVICE=([a-z]+)', line))}
  assert devices == {'cpu', 'gpu', 'tpu'}
  for device in devices:
    pins = {'cpu': 'pins.txt'}.get(device, f'{device}.txt')
    assert (ROOT / 'requirements' / pins).exists()
  for line in found:
    for word in line.split():
      if word.startswith(('--config=', 'scripts/')):
        assert (ROOT / word.removeprefix('--config=')).exists(), line


def test_check_container_says_what_it_needs():
  env = {**os.environ, 'PATH': '/nowhere'}
  done = subprocess.run([sys.executable, ROOT / 'scripts' / 'check_container'], env=env, capture_output=True, text=True)
  assert done.returncode == 2
  assert done.stderr == 'error: this needs root, and the package debootstrap: sudo apt-get install debootstrap\n'
