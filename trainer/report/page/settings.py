"""The config of a run as a table of fields, and what differs between several."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def flat(config: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, str]]:
  """('section.field', value as JSON) of each field, in the order of the file."""
  for name, value in config.items():
    if isinstance(value, Mapping) and value:
      yield from flat(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def sections(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
  """The fields by section; those that are in none come first, under ''."""
  found: dict[str, list[tuple[str, str]]] = {'': []}
  for path, value in flat(config):
    section, _, field = path.partition('.')
    found.setdefault(section if field else '', []).append((field or path, value))
  return [(section, fields) for section, fields in found.items() if fields]


def differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str | None]]]:
  """(field, its value in each config; None where it has no such field), of fields that are not the same in all."""
  tables = [dict(flat(config)) for config in configs]
  paths = dict.fromkeys(path for table in tables for path in table)
  rows = [(path, [table.get(path) for table in tables]) for path in paths]
  return [(path, values) for path, values in rows if len(set(values)) > 1]


def at(config: Mapping[str, Any], path: str) -> Any:
  """The value at 'section.field'; None where there is none."""
  value: Any = config
  for name in path.split('.'):
    value = value.get(name) if isinstance(value, Mapping) else None
  return value
