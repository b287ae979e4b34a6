"""The search ends at the largest batch that fits, whatever fits."""

import hypothesis
import pytest
from hypothesis import strategies

from tests.plan.test_making import config
from trainer import config as config_lib
from trainer.errors import ConfigError
from trainer.modes import plan as mode
from trainer.plan import making, search


@hypothesis.given(
  least=strategies.integers(1, 5), limit=strategies.integers(0, 3000), first=strategies.integers(1, 4000)
)
def test_it_ends_at_the_largest_that_fits(least, limit, first):
  asked = []

  def fits(size):
    asked.append(size)
    return size <= limit

  found = search._search(fits, least, first)
  powers = [least * 2**k for k in range(14)]
  assert found == max((size for size in powers if size <= limit), default=0)
  assert len(set(asked)) == len(asked) and set(asked) <= set(powers)


def fake(monkeypatch, limits, most=10**6):
  """Plans that fit as long as the examples of a chip are no more than `limits` has for the remat; of `most` at most."""

  def make(made, target):
    examples, remat = made.train.global_batch_size // 4, made.model.get('remat')
    if examples > most:
      raise making.Killed('killed')
    fits = examples <= limits[remat]
    target = {'fits': fits, **({'total_bytes': examples} if fits else {})}
    return {'examples_per_replica': examples, 'target': target, 'warnings': []}

  monkeypatch.setattr(making, 'make_apart', make)


def test_blocks_that_are_computed_twice_are_tried_too(monkeypatch):
  fake(monkeypatch, {'none': 3, 'blocks': 20})
  made = config_lib.base(task='language_modeling', model='gpt')
  made.data.dataset = 'python_docs'
  tried = []
  plan, attempts = search.largest(made, 'v5e:2x2', tried.append)
  assert plan['examples_per_replica'] == 2 and tried == attempts
  largest = {a['remat']: a['examples_per_chip'] for a in attempts if a['fits']}
  assert largest == {'none': 2, 'blocks': 16}
  fake(monkeypatch, {'none': 40, 'blocks': 70})
  attempts = search.largest(made, 'v5e:2x2')[1]
  assert [a['examples_per_chip'] for a in attempts if a['remat'] == 'blocks'] == [32, 64, 128]
  assert all(a['needed_bytes'] == (a['examples_per_chip'] if a['fits'] else None) for a in attempts)
  fake(monkeypatch, {'none': 0, 'blocks': 20})
  with pytest.raises(ConfigError, match=r'not even 1 per chip fits into v5e:2x2; with model.remat=blocks 16 do'):
    search.largest(made, 'v5e:2x2')


def test_a_process_that_is_killed_ends_the_search_and_not_what_it_has_found(monkeypatch):
  fake(monkeypatch, {None: 100}, most=10)
  plan, attempts = search.largest(config(), 'v5e:2x2')
  assert [(a['examples_per_chip'], a['fits']) for a in attempts] == [
    (2, True), (4, True), (8, True), (16, None),
  ]  # fmt: skip
  assert plan['examples_per_replica'] == 8 and plan['warnings'] == ['larger batches were not compiled: killed']
  assert mode._attempt({**attempts[-1], 'seconds': 60.0}) == (
    'Tried 16 examples per chip: not known, since the process that compiled it was killed (1 min 00 s)'
  )
  fake(monkeypatch, {None: 100}, most=0)
  with pytest.raises(making.Killed):
    search.largest(config(), 'v5e:2x2')


def test_what_the_mode_says_of_it():
  attempts = [
    {'examples_per_chip': n, 'remat': remat, 'fits': n <= most, 'needed_bytes': n * 2**30, 'seconds': 30.0}
    for remat, most in (('none', 4), ('blocks', 8))
    for n in (4, 8, 16)
  ]
  assert mode._about_the_search({'replicas': 16, 'search': attempts}) == [
    ('largest', '4 examples per chip, 4.00 GiB: --config.train.global_batch_size=64 --config.model.remat=none'),
    ('', '8 examples per chip, 8.00 GiB: --config.train.global_batch_size=128 --config.model.remat=blocks'),
    ('', '6 programs in 3 min 00 s'),
  ]
  assert mode._attempt(attempts[1]) == 'Tried 8 examples per chip, model.remat=none: 8.00 GiB, does not fit (30 s)'
  assert not mode._about_the_search({'replicas': 1})


def test_what_cannot_be_searched():
  with pytest.raises(ConfigError, match='--search is for a --target'):
    search.largest(config(), '')
