"""What stands in a program of XLA's, read from its text: operations of its products, and its collectives.

The compiler's own cost analysis counts the body of a loop once. Here it counts as often as it runs. Products are to be
counted before the compiler for TPUs has made convolutions of them, most of whose operations are never done.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

_BYTES = {
  'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'f16': 2, 'bf16': 2, 's32': 4, 'u32': 4, 'f32': 4, 's64': 8,
  'u64': 8, 'f64': 8,
}  # fmt: skip
_ARRAY = re.compile(r'\b(' + '|'.join(_BYTES) + r')\[([\d,]*)\]')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$')
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line.

  Attributes:
    name: unique in its computation.
    type: of the result, as text.
    op: what it does.
    rest: operands and attributes, as text.
  """

  name: str
  type: str
  op: str
  rest: str

  @property
  def operands(self) -> list[str]:
    return re.findall(r'%([\w.\-]+)', self.rest[: _closing(self.rest)])

  def attribute(self, name: str) -> str:
    """'{0,1}' of 'lhs_contracting_dims={0,1}', '%body.3' of 'body=%body.3'; '' if there is none."""
    found = re.search(rf'\b{name}=(\{{[^}}]*\}}|[^,\s]+)', self.rest)
    return found[1] if found else ''


class Program:
  """The computations of a module.

  Attributes:
    computations: name -> instructions by name.
    entry: name of the first.
    counted_once: names of the loops with products of which nothing says how often they run; filled by `flops`.
  """

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Instruction]] = {}
    self.entry, self.counted_once = '', set[str]()
    self._results: dict[str, str] = {}
    name, current = '', {}
    # Without /*index=5*/ and the like; and a dimension of [<=5] counts as 5.
    for line in re.sub(r'/\*.*?\*/|<=', '', text).splitlines():
      if started := _COMPUTATION.match(line):
        name = started[2]
        current = self.computations.setdefault(name, {})
        self.entry = name if started[1] else self.entry
      elif found := _INSTRUCTION.match(line):
        current[found[2]] = Instruction(*found.groups()[1:])
        if found[1]:
          self._results[name] = found[2]

  def flops(self) -> float:
    """Multiplications and additions of all products and convolutions of one run."""
    self.counted_once = {
      loop.name
      for name, loop, _ in self._run()
      if loop.op == 'while'
      and self._trips(name, loop) is None
      and any(self._product(at, inner) for at, inner, _ in self._run(loop.attribute('body').lstrip('%')))
    }
    return sum(times * self._product(name, instruction) for name, instruction, times in self._run())

  def collectives(self) -> dict[str, dict[str, float]]:
    """Kind -> {'count', 'bytes'} of one run; bytes of the results on one chip."""
    found: dict[str, dict[str, float]] = {}
    for _, instruction, times in self._run():
      kind = instruction.op.removesuffix('-start')
      if kind in COLLECTIVES:
        entry = found.setdefault(kind, {'count': 0, 'bytes': 0})
        entry['count'] += times
        entry['bytes'] += times * size(instruction.type)
    return found

  def _run(self, entry: str = '') -> Iterator[tuple[str, Instruction, int]]:
    """(computation, instruction, how often it runs), from the entry on."""
    waiting = [(entry or self.entry, 1)]
    while waiting:
      name, times = waiting.pop()
      for instruction in self._used(name):
        yield name, instruction, times
        trips = self._trips(name, instruction) if instruction.op == 'while' else 1
        for called in ('body', 'calls', 'to_apply', 'true_computation', 'false_computation'):
          if inner := instruction.attribute(called).lstrip('%'):
            waiting.append((inner, times * (1 if trips is None else trips)))
        for inner in re.findall(r'%([\w.\-]+)', instruction.attribute('branch_computations')):
          waiting.append((inner, times))

  def _used(self, name: str) -> list[Instruction]:
    """The instructions of a computation that its result is made of; a compiler drops the others."""
    instructions, found, waiting = self.computations.get(name, {}), {}, [self._results.get(name, '')]
    while waiting:
      instruction = instructions.get(waiting.pop())
      if instruction and instruction.name not in found:
        found[instruction.name] = instruction
        waiting += instruction.operands
    return list(found.values())

  def _trips(self, computation: str, loop: Instruction) -> int | None:
    """How often the body of a loop runs: what the compiler found, or the bound that its condition compares with."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
    if known:
      return int(known[1])
    bounds, carried, seen, waiting = [], [], set(), [loop.attribute('condition').lstrip('%')]
    while waiting:
      name = waiting.pop()
      if name in seen:
        continue
      seen.add(name)
      for instruction in self.computations.get(name, {}).values():
        number = re.match(r'(-?\d+)\)', instruction.rest)
        if instruction.op == 'constant' and number and int(number[1]) > 0:
          bounds.append(int(number[1]))
        if instruction.op == 'compare':
          bound = self.computations[name][instruction.operands[1]]
          carried += [int(bound.attribute('index'))] if bound.op == 'get-tuple-element' else []
        waiting += [instruction.attribute(called).lstrip('%') for called in ('calls', 'to_apply')]
    if not bounds:
      start = self.computations[computation][loop.operands[0]]
      values = [self._value(computation, start.operands[i]) for i in carried] if start.op == 'tuple' else []
      bounds = [value for value in values if value is not None]
    return min(bounds, default=None)

  def _value(self, computation: str, name: str) -> int | None:
    """Of a whole number, None if it is not known."""
    instruction = self.computations[computation][name]
    if instruction.op == 'constant' and (number := re.match(r'(-?\d+)\)', instruction.rest)):
      return int(number[1])
    if instruction.op in ('copy', 'reshape', 'convert'):
      return self._value(computation, instruction.operands[0])
    if instruction.op == 'get-tuple-element':
      source, index = self.computations[computation][instruction.operands[0]], int(instruction.attribute('index'))
      if source.op == 'tuple':
        return self._value(computation, source.operands[index])
      # TensorFlow counts the rounds of a loop in its first variable; the loop of the gradient makes as many.
      return self._trips(computation, source) if source.op == 'while' and index == 0 else None
    return None

  def _product(self, computation: str, instruction: Instruction) -> float:
    if instruction.op not in ('dot', 'convolution'):
      return 0.0
    shapes = [self._shape(computation, operand) for operand in instruction.operands[:2]]
    result = math.prod(_dims(instruction.type))
    if instruction.op == 'dot':
      summed = [int(i) for i in re.findall(r'\d+', instruction.attribute('lhs_contracting_dims'))]
      return 2.0 * result * math.prod(shapes[0][i] for i in summed)
    # dim_labels=b01f_01io->b01f: each output is a sum over the kernel, but for its outputs.
    labels = instruction.attribute('dim_labels')
    kernel = labels.partition('_')[2].partition('->')[0]
    taps = math.prod(n for n, label in zip(shapes[1], kernel, strict=True) if label != 'o')
    # Where zeros are put between the inputs (the gradient of a stride), all but one of so many are multiplied by zero.
    dilation = re.search(r'lhs_dilate=([\dx]+)', instruction.attribute('window'))
    return 2.0 * result * taps / math.prod(int(n) for n in dilation[1].split('x')) if dilation else 2.0 * result * taps

  def _shape(self, computation: str, operand: str) -> list[int]:
    return _dims(self.computations[computation][operand].type)


def size(type_text: str) -> int:
  """Bytes of all arrays of a type."""
  arrays = _ARRAY.findall(type_text)
  return sum(_BYTES[dtype] * math.prod(int(n) for n in dims.split(',') if n) for dtype, dims in arrays)


def _dims(type_text: str) -> list[int]:
  found = _ARRAY.search(type_text)
  return [int(n) for n in found[2].split(',') if n] if found else []


def _closing(text: str) -> int:
  """Where the bracket closes that was open before the text."""
  depth = 1
  for i, character in enumerate(text):
    depth += (character == '(') - (character == ')')
    if not depth:
      return i
  return len(text)
