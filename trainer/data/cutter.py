"""A process that cuts texts into tokens for another one (pieces.py), which it ends with; it imports no TensorFlow.

It reads pickles from its standard input: a tokenizer, then (path, texts) again and again until the end. Each time it
writes one piece and answers on its standard output with a pickle: None, or the error that `write` raised.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys

import numpy as np

from trainer import durable
from trainer.data.tokenizers import Tokenizer
from trainer.errors import ConfigError


def kind(tokenizer: Tokenizer) -> np.dtype:
  """The smallest integers that hold the tokens: a piece is raw numbers of this kind, little endian."""
  return np.min_scalar_type(len(tokenizer.vocabulary) - 1).newbyteorder('<')


def write(tokenizer: Tokenizer, path: str, texts: list[bytes]) -> None:
  """Writes the tokens of some texts as a piece; a file of this name is always whole.

  Raises:
    ConfigError: the tokenizer is not for such texts.
    OSError: the piece cannot be written.
  """
  row = np.concatenate([np.zeros([0], np.int32), *tokenizer.rows(texts)])
  # Who was killed may still have a process that writes the same piece.
  own = f'{path}.{os.getpid()}'
  row.astype(kind(tokenizer)).tofile(own)
  durable.settle(own, path)


def main() -> None:
  # Ctrl-C goes to all processes of a terminal; the one that asked says so by the end of the input.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  asked, answers = sys.stdin.buffer, sys.stdout.buffer
  tokenizer = pickle.load(asked)
  while True:
    try:
      path, texts = pickle.load(asked)
    except EOFError:
      return
    answer = None
    try:
      write(tokenizer, path, texts)
    except (ConfigError, OSError) as error:
      answer = error
    pickle.dump(answer, answers)
    answers.flush()


if __name__ == '__main__':
  main()
