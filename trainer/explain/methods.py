"""The methods by name: to what they fit, how they are run on one example, and how their result is shown.

Dimensions: T places.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.explain import grad_cam as cam
from trainer.explain import integrated_gradients as integrated
from trainer.explain import mutagenesis as substitutions
from trainer.explain import occlusion as covering
from trainer.explain import rollout as attention
from trainer.explain import smoothgrad as smooth
from trainer.explain import views
from trainer.explain.attribution import Attribution
from trainer.explain.network import Call, Called, Network
from trainer.explain.subjects import Subject
from trainer.models.attention import Attention
from trainer.report.gallery import Part, signed

# Families of which attention alone mixes the places.
TRANSFORMERS = ('bert', 'gpt', 'sequence_transformer', 'vit')


@dataclasses.dataclass(frozen=True)
class Case:
  """One example to be explained, and all that the methods need beside it.

  Attributes:
    config: of the run.
    view: of the inputs.
    inputs: [1, ...].
    subject: what is asked.
    number: of the example.
    mean: gives the mean inputs of the split, [1, ...].
    alphabet: symbols that a sequence may have, for mutagenesis; empty: it is no such sequence.
    refined: whether integrated gradients are computed until they are complete.
  """

  config: Any
  view: views.View
  inputs: np.ndarray
  subject: Subject
  number: int
  mean: Callable[[], np.ndarray]
  alphabet: str = ''
  refined: bool = True

  @property
  def fields(self) -> Any:
    return self.config.explain

  @property
  def symbols(self) -> np.ndarray:
    """The ids of the alphabet (trainer/tasks/text_classification.py)."""
    return np.array([ord(letter) + 1 for letter in self.alphabet], self.inputs.dtype)

  @property
  def path(self) -> dict[str, int]:
    """How integrated gradients go from the baseline to the inputs."""
    fields = self.fields
    most = fields.most_steps if self.refined else fields.steps
    return {'steps': fields.steps, 'most_steps': most, 'together': fields.batch_size}

  def baseline(self) -> np.ndarray:
    return views.baseline(self.fields.baseline, self.view, self.inputs, self.mean)


def _integrated_gradients(network: Network, case: Case) -> Attribution:
  fields, inputs = case.fields, case.inputs
  call: Call = network
  if case.view.kind == 'ids':
    embedding = _embedding(network, inputs)
    assert embedding is not None
    covers = getattr(_runs(network), 'covers', None)
    given, call = network.beyond(embedding, inputs)
    if fields.baseline == 'zero' or (covers and fields.baseline == 'auto'):
      nothing = np.zeros_like(given.numpy())
    else:
      nothing = network.beyond(embedding, case.baseline())[0].numpy()
    found = integrated.integrated_gradients(call, given.numpy(), case.subject.target, baseline=nothing, **case.path)
    values = found.values.sum(axis=-1)
    # A run of symbols speaks for each of them alike.
    return Attribution(covers(inputs[0]).T @ values if covers else values, found.check)
  found = integrated.integrated_gradients(call, inputs, case.subject.target, baseline=case.baseline(), **case.path)
  return Attribution(case.view.summed(found.values), found.check)


def _smoothgrad(network: Network, case: Case) -> Attribution:
  fields = case.fields
  found = smooth.smoothgrad(
    network, case.inputs, case.subject.target, noise=fields.noise, samples=fields.samples,
    seed=(case.config.seed, case.number), together=fields.batch_size,
  )  # fmt: skip
  return Attribution(case.view.summed(found.values), found.check)


def _grad_cam(network: Network, case: Case) -> Attribution:
  called = cam.layer(network.calls(case.inputs), case.fields.layer)
  assert called is not None
  given, call = network.beyond(called, case.inputs)
  high, wide = (*case.view.shape, 1)[:2]
  found = cam.grad_cam(call, given.numpy(), case.subject.target, size=(high, wide))
  return Attribution(found.values, {'layer': called.layer.name, **found.check})


def _occlusion(network: Network, case: Case) -> Attribution:
  found = covering.occlusion(
    network, case.inputs, case.subject.target, baseline=case.baseline(),
    regions=case.view.regions(case.fields.window, case.fields.stride), together=case.fields.batch_size,
  )  # fmt: skip
  if isinstance(case.view, views.Table):
    return Attribution(np.array([found.values[columns[0]] for columns in case.view.groups.values()]), found.check)
  return found


def _rollout(network: Network, case: Case) -> Attribution:
  layers = [each.numpy() for each in network.observed('shares', attention.shares, case.inputs)]
  places = layers[0].shape[-1]
  model, there = case.config.model, np.ones(places)
  if case.subject.place is not None:
    rows = np.eye(places)[case.subject.place]
  elif model.name == 'bert' or (model.name == 'vit' and model.pooling == 'token'):
    rows = np.eye(places)[0]
  else:
    if model.name == 'sequence_transformer' and model.vocabulary and model.summary == 'mean':
      there = (case.inputs[0] != 0).astype(float)
    rows = there / max(there.sum(), 1.0)
  found = attention.rollout(layers, rows)
  if not isinstance(case.view, views.Image):
    return found
  patch = model.patch_size
  grid = (case.view.shape[0] // patch, case.view.shape[1] // patch)
  patches = found.values[places - grid[0] * grid[1] :].reshape(grid)
  return Attribution(np.kron(patches, np.ones((patch, patch))), found.check)


def _mutagenesis(network: Network, case: Case) -> Attribution:
  places = np.flatnonzero(np.isin(case.inputs[0], case.symbols))
  return substitutions.mutagenesis(
    network, case.inputs, case.subject.target, symbols=case.symbols, places=places, together=case.fields.batch_size
  )


def _show_mutagenesis(case: Case, found: Attribution) -> list[Part]:
  there = [chr(i - 1) if i else '' for i in case.inputs[0].tolist()]
  most = np.abs(found.values).max() or 1.0
  rows = f'rows {" ".join(case.alphabet)}, columns the {len(there)} places, red: more, blue: less'
  strongest = substitutions.strongest(found.values, list(case.alphabet), there)
  return [
    Part(f'mutagenesis: {rows}, up to {most:.4g}', 'image', signed(found.values / most)),
    Part('strongest substitutions', 'numbers', strongest),
  ]


@dataclasses.dataclass(frozen=True)
class Method:
  """One method.

  Attributes:
    run: what it says of an example at some weights.
    refusal: why it cannot be run, in a clause; '' where it can.
    by_itself: the kinds of inputs for which explain.methods='auto' takes it.
    shown: 'values' for attributions of both signs, 'shares' for such as are not below 0.
  """

  run: Callable[[Network, Case], Attribution]
  refusal: Callable[[Network, Case], str]
  by_itself: tuple[str, ...]
  shown: str = 'values'

  def parts(self, name: str, case: Case, found: Attribution) -> list[Part]:
    """The result as what people look at."""
    if name == 'mutagenesis':
      return _show_mutagenesis(case, found)
    return getattr(case.view, self.shown)(name.replace('_', ' '), found.values, case.inputs[0])


def _needs_embedding(network: Network, case: Case) -> str:
  if case.view.kind != 'ids' or _embedding(network, case.inputs) is not None:
    return ''
  return 'needs a keras.layers.Embedding that is called with the ids, which this model has not'


def _needs_numbers(network: Network, case: Case) -> str:
  return '' if case.view.kind != 'ids' else 'adds noise to numbers, and these inputs are ids'


def _needs_convolution(network: Network, case: Case) -> str:
  if case.view.kind not in ('image', 'frames'):
    return f'is for images and frames, and these inputs are a {case.view.kind}'
  if not case.fields.layer and case.config.task.name in ('detection', 'segmentation'):
    return 'does not know which layer to take of a model that answers at each place: set explain.layer'
  if cam.layer(network.calls(case.inputs), case.fields.layer) is None:
    return f'needs a convolutional layer, and model.name={case.config.model.name!r} has none: set explain.layer'
  return ''


def _needs_attention(network: Network, case: Case) -> str:
  if case.config.model.name not in TRANSFORMERS:
    return f'is for model.name {", ".join(TRANSFORMERS)}, not {case.config.model.name!r}'
  has = any(isinstance(layer, Attention) for layer in network.model._flatten_layers())
  return '' if has else 'needs a layer of attention'


def _needs_alphabet(network: Network, case: Case) -> str:
  if case.alphabet:
    return ''
  return 'needs sequences of a text task, in symbols of an alphabet (DNA, RNA, amino acids): set explain.alphabet'


METHODS: dict[str, Method] = {
  'integrated_gradients': Method(_integrated_gradients, _needs_embedding, ('image', 'frames', 'table', 'ids')),
  'smoothgrad': Method(_smoothgrad, _needs_numbers, ('image', 'frames')),
  'grad_cam': Method(_grad_cam, _needs_convolution, ('image', 'frames'), 'shares'),
  'occlusion': Method(_occlusion, lambda network, case: '', ('image', 'frames')),
  'rollout': Method(_rollout, _needs_attention, ('image', 'ids'), 'shares'),
  'mutagenesis': Method(_mutagenesis, _needs_alphabet, ('ids',)),
}


def _embedding(network: Network, inputs: np.ndarray) -> Called | None:
  """The call of the layer that makes vectors of the ids, or of runs of them."""
  import keras

  for called in network.calls(inputs):
    if isinstance(called.layer, keras.layers.Embedding) and called.args and called.output.shape.rank == 3:
      given = tf.convert_to_tensor(called.args[0])
      if given.shape.rank == 2 and given.shape[0] == 1 and (given.shape[1] == inputs.shape[1] or _runs(network)):
        return called
  return None


def _runs(network: Network) -> Any:
  """The layer that makes runs of symbols, which are embedded in their place (trainer/models/ngrams.py); or None."""
  return next((layer for layer in network.model._flatten_layers() if hasattr(layer, 'covers')), None)
