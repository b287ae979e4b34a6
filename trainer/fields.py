"""How one config field is declared: its default, its meaning and the rule that its value obeys.

Every section of the config (trainer/config.py), every model family (trainer/models) and every task (trainer/tasks)
declares a table `FIELDS: dict[str, Field]`; trainer/config.py composes the tables and checks the values.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from typing import Any

from trainer.errors import ConfigError

# Takes a value, returns what is wrong with it ('must be at least 1'), or '' when nothing is.
Rule = Callable[[Any], str]


@dataclasses.dataclass(frozen=True)
class Field:
  """One config field.

  Attributes:
    default: the value when the config says nothing; its type is the type of the field.
    meaning: what it does, with its unit, in one line.
    rule: checks one value; rules across fields stand in trainer/config.py.
    fixed: True where a change on resume would break the run: another model, other data, another order.
  """

  default: Any
  meaning: str
  rule: Rule | None = None
  fixed: bool = False


def at_least(low: float) -> Rule:
  return lambda value: '' if value >= low else f'must be at least {low}'


def above(low: float) -> Rule:
  return lambda value: '' if value > low else f'must be above {low}'


def fraction(value: float) -> str:
  """The rule for a share: from 0, which is allowed, to 1, which is not."""
  return '' if 0 <= value < 1 else 'must be at least 0 and below 1'


def shares(value: tuple[Any, ...]) -> str:
  """The rule for (name, share) pairs, each share above 0 and below 1."""
  for entry in value:
    if not (isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[0], str)):
      return "must be pairs of a name and a share, as in (('NAME', 0.25),)"
    if isinstance(entry[1], bool) or not isinstance(entry[1], int | float) or not 0 < entry[1] < 1:
      return f'gives {entry[0]!r} the share {entry[1]!r}, which must be above 0 and below 1'
  return ''


def one_of(*names: str) -> Rule:
  def rule(value: str) -> str:
    return '' if value in names else f'must be one of {", ".join(names)}{nearest(value, names)}'

  return rule


def named(what: str, names: Iterable[str]) -> Rule:
  """The rule for the name of `what` ('an optimizer') out of a table; its complaint gives the nearest, and all."""
  known = sorted(names)
  return lambda name: '' if name in known else f'is not {what}{nearest(name, known)} Known: {", ".join(known)}'


def each(rule: Rule) -> Rule:
  """The rule for a tuple: `rule` holds for each member."""
  return lambda values: next((complaint for complaint in map(rule, values) if complaint), '')


def nearest(name: str, names: Iterable[str]) -> str:
  """'; did you mean X?' for the name nearest to `name`, or '' when none is near."""
  matches = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
  return f'; did you mean {matches[0]!r}?' if matches else ''


def look_up(kind: str, name: str, table: dict[str, Any]) -> Any:
  """`table[name]`.

  Raises:
    ConfigError: there is no such name; the message lists the names and the nearest one.
  """
  if name in table:
    return table[name]
  raise ConfigError(f'unknown {kind} {name!r}{nearest(name, table)} Known: {", ".join(sorted(table))}.')
