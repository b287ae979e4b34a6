"""A plan for a TPU makes bfloat16 Keras' default in this process, which other tests share."""

import keras
import pytest


@pytest.fixture(autouse=True, scope='module')
def _policy_as_it_was():
  yield
  keras.config.set_dtype_policy('float32')
