"""Galleries (trainer/report/gallery.py) as parts of a page: files become data URIs, as many as a budget takes."""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from trainer.report import words
from trainer.report.page.curves import is_number
from trainer.report.page.folder import Run

_TYPES = {'image': ('.png', b'\x89PNG\r\n\x1a\n', 'image/png'), 'sound': ('.wav', b'RIFF', 'audio/wav')}
_SMALL, _WISHED, _WIDEST = 128, 112, 640  # sides of pictures, in CSS pixels
_OVERHEAD = 120  # bytes of HTML that a part takes beside what it shows
_PER_TOKEN = 60
_LARGEST_MATRIX = 40  # classes; of more, the pairs that are confused most are shown
_PAIRS = 30
_FIRST = 24  # entries of a group that are not folded


def view(runs: Sequence[Run], budget: int) -> list[dict[str, Any]]:
  """All galleries of all runs: by kind, run, and the newest step first.

  Args:
    runs: as they are on the page.
    budget: bytes that all entries together may take in the page. Each gallery gets the same share, and what a small
      one does not need goes to the others.

  Returns:
    {'run': number, 'folder', 'kind', 'title', 'step', 'facts': [(name, words)], 'confusion', 'groups': [(name, [entry],
    [entry]): those shown and those folded], 'tokens': whether there are any, 'entries', 'left_out'}
  """
  found: list[dict[str, Any]] = []
  for number, run in enumerate(runs):
    for folder, index in run.galleries:
      entries = [entry for entry in _list(index.get('entries')) if isinstance(entry, dict)]
      sizes = [_size(os.path.join(run.folder, folder), entry) for entry in entries]
      step = index.get('step')
      found.append(
        {
          'run': number,
          'folder': folder,
          'kind': folder.partition('/')[0],
          'title': _text(index.get('title')) or folder,
          'step': step if isinstance(step, int) else None,
          'facts': [(name, _value(value)) for name, value in _dict(index.get('facts')).items()],
          'confusion': confusion(index.get('confusion')),
          'all': list(zip(entries, sizes, strict=True)),
          'place': os.path.join(run.folder, folder),
        }
      )
  for place, gallery in enumerate(sorted(found, key=lambda one: sum(size for _, size in one['all']))):
    share = budget // (len(found) - place)
    chosen, spent = [], 0
    for entry, size in gallery['all']:
      if spent + size <= share:
        spent += size
        chosen.append(_entry(gallery['place'], entry))
    budget -= spent
    gallery['entries'], gallery['left_out'] = len(gallery['all']), len(gallery['all']) - len(chosen)
    gallery['groups'] = _groups(chosen)
    gallery['tokens'] = any(part['kind'] == 'tokens' for entry in chosen for part in entry['parts'])
    del gallery['all'], gallery['place']
  found.sort(key=lambda one: (one['kind'], one['run'], one['step'] is None, -(one['step'] or 0), one['folder']))
  return found


def confusion(matrix: Any) -> dict[str, Any] | None:
  """A confusion matrix that can be drawn; None where there is none.

  Returns:
    {'names', 'rows': [(name, [(count, share of its row)], total, recall)] or [] where there are too many classes,
    'pairs': [(true name, predicted name, count)] of the largest confusions, 'classes', 'right', 'total'}
  """
  names, counts = _list(_dict(matrix).get('names')), _list(_dict(matrix).get('counts'))
  square = len(counts) == len(names) and all(isinstance(row, list) and len(row) == len(names) for row in counts)
  if not names or not square or not all(is_number(count) for row in counts for count in row):
    return None
  labels = [_text(name) for name in names]
  pairs = sorted(
    ((labels[i], labels[j], count) for i, row in enumerate(counts) for j, count in enumerate(row) if i != j and count),
    key=lambda pair: -pair[2],
  )
  rows = []
  for i, row in enumerate(counts if len(names) <= _LARGEST_MATRIX else []):
    total = sum(row)
    cells = [(count, count / total if total else 0.0) for count in row]
    rows.append((labels[i], cells, total, row[i] / total if total else None))
  return {
    'names': labels,
    'rows': rows,
    'pairs': pairs[:_PAIRS],
    'classes': len(names),
    'right': sum(counts[i][i] for i in range(len(names))),
    'total': sum(map(sum, counts)),
  }


def _groups(entries: Iterable[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]]:
  groups: dict[str, list[dict[str, Any]]] = {}
  for entry in entries:
    groups.setdefault(entry['group'], []).append(entry)
  return [(name, found[:_FIRST], found[_FIRST:]) for name, found in groups.items()]


def _size(folder: str, entry: dict[str, Any]) -> int:
  """About how many bytes an entry takes in the page."""
  total = _OVERHEAD
  for part in _list(entry.get('parts')):
    path = _path(folder, part) if isinstance(part, dict) else None
    if path:
      try:
        total += _OVERHEAD + os.path.getsize(path) * 4 // 3
      except OSError:
        total += _OVERHEAD
    elif isinstance(part, dict):
      value = part.get('value')
      total += _OVERHEAD + len(json.dumps(value)) + (_PER_TOKEN * len(value) if isinstance(value, list | dict) else 0)
  return total


def _entry(folder: str, entry: dict[str, Any]) -> dict[str, Any]:
  parts = [_part(folder, part) for part in _list(entry.get('parts')) if isinstance(part, dict)]
  return {'title': _text(entry.get('title')), 'group': _text(entry.get('group')), 'parts': parts}


def _part(folder: str, part: dict[str, Any]) -> dict[str, Any]:
  """What the template shows of a part; a kind that is not known, or a file that is not what it says, is a text."""
  kind, value, title = part.get('kind'), part.get('value'), _text(part.get('title'))
  head = {'kind': kind, 'title': title}
  if kind in _TYPES:
    return {**head, **_embedded(folder, part)}
  if kind == 'numbers' and isinstance(value, dict):
    return {**head, 'rows': [(name, _value(number)) for name, number in value.items()]}
  if kind == 'shares' and isinstance(value, dict):
    shares = [(name, share) for name, share in value.items() if is_number(share)]
    return {**head, 'rows': [(name, share, min(1.0, max(0.0, share))) for name, share in shares]}
  if kind == 'tokens' and isinstance(value, list):
    pairs = [pair for pair in value if isinstance(pair, list) and len(pair) == 2]
    return {**head, 'tokens': [(_text(text), min(1.0, max(-1.0, w)) if is_number(w) else 0.0) for text, w in pairs]}
  return {**head, 'kind': 'text', 'text': _text(value)}


def _embedded(folder: str, part: dict[str, Any]) -> dict[str, Any]:
  _, magic, media = _TYPES[part['kind']]
  path = _path(folder, part)
  try:
    if path is None:
      raise ValueError('not a file of the gallery')
    with open(path, 'rb') as file:
      contents = file.read()
    if not contents.startswith(magic):
      raise ValueError(f'no {media} file')
    found: dict[str, Any] = {'uri': f'data:{media};base64,{base64.b64encode(contents).decode()}'}
    return found | (_picture(contents) if part['kind'] == 'image' else {})
  except (OSError, ValueError, struct.error) as error:
    reason = error.strerror if isinstance(error, OSError) else error
    return {'kind': 'text', 'text': f'{_text(part.get("file"))} cannot be shown: {reason}'}


def _picture(contents: bytes) -> dict[str, Any]:
  """{'width', 'height': in CSS pixels, 'pixels': 'W x H', 'small': whether to enlarge it without smoothing}."""
  width, height = struct.unpack('>II', contents[16:24])
  longest = max(width, height, 1)
  small = longest <= _SMALL
  factor = max(1, _WISHED // longest) if small else min(1.0, _WIDEST / longest)
  size = {'width': max(1, round(width * factor)), 'height': max(1, round(height * factor))}
  return {**size, 'pixels': f'{width} x {height}', 'small': small}


def _path(folder: str, part: dict[str, Any]) -> str | None:
  """Of the file of a part; None where it has none, or names one outside of its gallery."""
  name = part.get('file')
  if part.get('kind') not in _TYPES or not isinstance(name, str):
    return None
  path = os.path.join(folder, name)
  inside = name == os.path.basename(name) and name.endswith(_TYPES[part['kind']][0]) and not os.path.islink(path)
  return path if inside else None


def _value(value: Any) -> str:
  return words.value(value) if is_number(value) else _text(value)


def _text(value: Any) -> str:
  return value if isinstance(value, str) else '' if value is None else json.dumps(value, ensure_ascii=False)


def _list(value: Any) -> list[Any]:
  return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
  return value if isinstance(value, dict) else {}
