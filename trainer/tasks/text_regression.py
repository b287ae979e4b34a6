"""Numbers for a text or a sequence of symbols (DNA, RNA, amino acids), which the model sees as bytes in UTF-8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections

from trainer.fields import Field
from trainer.tasks import inputs as inputs_lib
from trainer.tasks import regression
from trainer.tasks.base import Examples
from trainer.tasks.text_classification import INPUT_FIELDS, Bytes

FIELDS: dict[str, Field] = {
  **INPUT_FIELDS,
  **{name: field for name, field in regression.FIELDS.items() if name not in inputs_lib.FIELDS},
}


class TextRegression(regression.Regression):
  """Regression on texts; targets, losses and metrics are those of images and vectors."""

  def _make_inputs(
    self, fields: Any, features: Mapping[str, Any], examples: Examples, saved: Mapping[str, Any] | None
  ) -> Any:
    return Bytes(fields, features)


def create(
  config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
) -> TextRegression:
  """See `trainer.tasks.create`."""
  return TextRegression(config, features, examples, saved)
