"""The card of an exported model: Mitchell et al., Model Cards for Model Reporting, 2019, as far as a program knows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from trainer import config as config_lib
from trainer.data import builders
from trainer.report import run_record


def text(session: Any, step: int, results: Mapping[str, Any], checks: Mapping[str, Any]) -> str:
  """Markdown.

  Args:
    session: the parts of the run (trainer/train/session.py).
    step: of the checkpoint.
    results: of an evaluation of it, with the number of examples.
    checks: what the comparison of export and checkpoint found, and what was left out.
  """
  config, dataset = session.config, session.dataset
  directory = builders.data_dir(config)
  info = builders.open_builder(config.data.dataset, directory, needs_data=False).info
  # A set's own files may have been prepared by another program, and say more than its code.
  licence = info.redistribution_info.license or 'not stated by the dataset: ask its owners'
  digest = hashlib.sha256(config_lib.to_json(config).encode()).hexdigest()[:12]
  git = run_record.git_state(run_record.PACKAGE)
  commit = f'{git["commit"]}{", changed" if git["dirty"] else ""}' if git else 'not known'
  metrics = '\n'.join(f'| {name} | {value:.6g} |' for name, value in results.items() if name != 'examples')
  left_out = ''.join(f'\n- Not here: {name}: {why}' for name, why in checks['left_out'].items())
  differences = ', '.join(f'{name} {value:.2g}' for name, value in checks['largest_difference'].items())
  citation = f'\n```\n{info.citation}\n```\n' if info.citation else ''
  return f"""# {config.model.name} for {config.task.name} on {dataset.name}

| | |
|---|---|
| task | {config.task.name} |
| network | {config.model.name}, {session.model.count_params():,} parameters, computed in {session.precision.policy} |
| checkpoint | step {step} of {config.train.steps} |
| config | sha256 {digest} (config.json) |
| commit | {commit} |
| versions | {', '.join(f'{name} {version}' for name, version in run_record.versions().items())} |

## Data

Trained on {dataset.name}:{dataset.version}, split `{dataset.train.name}` ({dataset.train.num_examples} examples).
{' '.join(info.description.split())}

Licence of the data: {licence}
{citation}
## How good it is

On split `{dataset.evaluation.name}`, {results['examples']} examples, each once:

| | |
|---|---|
{metrics}

What it says of examples that are unlike these was not measured.

## How to use it

```sh
python predict.py examples   # or INPUT...; needs TensorFlow {run_record.versions().get('tensorflow', '')} and NumPy
```

```python
run = tf.saved_model.load('saved_model').signatures['serving_default']
```

`signature.json` says what goes in (raw features; preprocessing is inside) and what comes out. TensorFlow Serving takes
`saved_model/` as a version of a model.

## What was checked

- {checks['examples']} examples of the split above through the SavedModel, loaded in a process without this program,
  against the checkpoint: largest difference {differences} (allowed {checks['tolerance']:g}).{left_out}

```json
{json.dumps(config.to_dict())}
```
"""
