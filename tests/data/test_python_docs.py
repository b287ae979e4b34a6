"""Python's own documentation: which topics are held out, and that nothing of them is trained on."""

import tensorflow_datasets as tfds

from trainer.data.datasets import python_docs

LONG = 'A paragraph that is long enough to be told from a turn of phrase, number {}.'


def test_topics_with_a_paragraph_in_common_are_on_one_side():
  topics = {f'topic{i}': f'{LONG.format(i)}\n\n{LONG.format(f"shared by {i // 3}")}' for i in range(300)}
  held_out = python_docs.chosen(topics)
  assert 30 < len(held_out) < 90
  groups = {int(name.removeprefix('topic')) // 3 for name in held_out}
  assert len(held_out) == 3 * len(groups)
  assert python_docs.chosen(dict(reversed(topics.items()))) == held_out


def test_a_group_that_is_most_of_the_text_is_trained_on():
  topics = {f'topic{i}': f'{LONG.format(i)}\n\n{LONG.format("of all")}' for i in range(300)}
  assert python_docs.chosen(topics) == []


def test_short_paragraphs_and_white_space_tell_nothing():
  assert python_docs.paragraphs('Notes:\n\n  See also\n\n' + LONG.replace(' ', '\n   ')) == [LONG]


def test_nothing_of_the_test_split_is_trained_on(tmp_path, monkeypatch):
  from pydoc_data.topics import topics

  leak = next(paragraph for name in python_docs.chosen(topics) for paragraph in topics[name].split('\n\n')
              if python_docs.paragraphs(paragraph))  # fmt: skip
  monkeypatch.setattr(python_docs, '_modules', lambda: iter([('module', f'{LONG.format(1)}\n\n{leak}\n\nThe end.')]))
  builder = python_docs.PythonDocs(data_dir=tmp_path)
  builder.download_and_prepare()
  texts = {
    split: {example['name'].decode(): example['text'].decode() for example in tfds.as_numpy(builder.as_dataset(split))}
    for split in ('train', 'test')
  }
  assert texts['train'].pop('module') == f'{LONG.format(1)}\n\nThe end.'
  assert texts['train'] | texts['test'] == topics and not texts['train'].keys() & texts['test'].keys()
  trained, tested = ({p for text in part.values() for p in python_docs.paragraphs(text)} for part in texts.values())
  assert not trained & tested and 100 < len(tested) < len(trained)


def test_modules_are_read_and_not_run(tmp_path, monkeypatch):
  (tmp_path / 'test').mkdir()
  (tmp_path / 'test' / 'left_out.py').write_text('"""Not this."""')
  (tmp_path / 'broken.py').write_text('def (')
  (tmp_path / 'silent.py').write_text('x = 1')
  (tmp_path / 'package').mkdir()
  (tmp_path / 'package' / 'some.py').write_text(
    '"""First."""\nraise SystemExit\ndef f():\n  """\n  Then.\n\n  Last.\n  """'
  )
  monkeypatch.setattr(python_docs.sysconfig, 'get_path', lambda name: str(tmp_path))
  assert list(python_docs._modules()) == [('package.some', 'First.\n\nThen.\n\nLast.')]
