"""Writes small models of other libraries as they publish theirs, each with what it makes of some inputs.

`python tests/checkpoint/published_files.py`, in an environment with torch, transformers, timm and safetensors, writes
tests/checkpoint/published/NAME.safetensors. The inputs and outputs are in a file's metadata, as JSON.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

FOLDER = pathlib.Path(__file__).with_name('published')
UNITS, PLACES, IMAGE = 13, 12, 16


def _gpt2() -> Any:
  import transformers

  config = transformers.GPT2Config(vocab_size=UNITS, n_positions=PLACES, n_embd=8, n_layer=2, n_head=2)
  return transformers.GPT2LMHeadModel(config)


def _llama() -> Any:
  import transformers

  config = transformers.LlamaConfig(
    vocab_size=UNITS, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, rms_norm_eps=1e-5, tie_word_embeddings=False,
  )  # fmt: skip
  return transformers.LlamaForCausalLM(config)


def _bert(kind: str) -> Callable[[], Any]:
  def make() -> Any:
    import transformers

    config = transformers.BertConfig(
      vocab_size=UNITS, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
      max_position_embeddings=PLACES, num_labels=5,
    )  # fmt: skip
    return getattr(transformers, kind)(config)

  return make


def _t5() -> Any:
  import transformers

  config = transformers.T5Config(
    vocab_size=UNITS, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2, feed_forward_proj='gated-gelu',
    pad_token_id=0, decoder_start_token_id=0, tie_word_embeddings=False,
  )  # fmt: skip
  # The constructor remembers that the outputs are not scaled, and ties the weights all the same.
  config.tie_word_embeddings = False
  return transformers.T5ForConditionalGeneration(config)


def _vit() -> Any:
  import transformers

  config = transformers.ViTConfig(
    hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=IMAGE, patch_size=8,
    num_labels=5, layer_norm_eps=1e-6,
  )  # fmt: skip
  return transformers.ViTForImageClassification(config)


def _timm_vit() -> Any:
  from timm.models.vision_transformer import VisionTransformer

  return VisionTransformer(img_size=IMAGE, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=5)


MODELS: dict[str, Callable[[], Any]] = {
  'gpt2': _gpt2, 'llama': _llama, 'bert': _bert('BertForMaskedLM'),
  'bert_text': _bert('BertForSequenceClassification'), 't5': _t5, 'vit': _vit, 'timm_vit': _timm_vit,
}  # fmt: skip


def main() -> None:
  import torch
  from safetensors import safe_open
  from safetensors.torch import load_file, save_file

  FOLDER.mkdir(exist_ok=True)
  for name, make in MODELS.items():
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
      for weight in model.parameters():  # biases of 0 would hide one that is taken for another
        weight.add_(torch.randn_like(weight) * 0.3)
      for side in ('encoder', 'decoder') if name == 't5' else ():  # one table, as in all that is published
        getattr(model, side).embed_tokens.weight.copy_(model.shared.weight)
      if 'vit' in name:
        # The last dimension is the channel for us.
        images = torch.randint(-9, 10, (2, IMAGE, IMAGE, 3)) / 8
        inputs = {'image': images.tolist()}
        found = model(images.permute(0, 3, 1, 2))
      else:
        ids = torch.randint(1, UNITS, (2, PLACES))
        inputs = {'ids': ids.tolist()}
        found = model(input_ids=ids, **({'decoder_input_ids': ids.flip(1)} if name == 't5' else {}))
    outputs = getattr(found, 'logits', found)
    path = FOLDER / f'{name}.safetensors'
    with tempfile.TemporaryDirectory() as folder:
      if hasattr(model, 'save_pretrained'):
        model.save_pretrained(folder)  # the names are those of its files, not of its modules
        (saved,) = pathlib.Path(folder).glob('*.safetensors')
        tensors = load_file(saved)
        with safe_open(saved, 'pt') as file:
          assert file.metadata() == {'format': 'pt'}
      else:
        tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
      save_file(tensors, path, {'inputs': json.dumps(inputs), 'outputs': json.dumps(outputs.tolist())})
    print(path, path.stat().st_size)


if __name__ == '__main__':
  main()
