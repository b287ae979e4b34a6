from trainer.report.banner import banner, summary
from trainer.report.throughput import Rate


def test_values_are_aligned_and_empty_facts_left_out():
  text = banner([('strategy', 'one: a CPU'), ('XLA', 'on'), ('changed', ''), ('data', 'first\nsecond')], title='Run')
  assert text.splitlines() == [
    'Run',
    '  strategy  one: a CPU',
    '  XLA       on',
    '  data      first',
    '            second',
  ]


def test_a_long_value_goes_on_under_its_start_and_a_path_stays_whole():
  path = '/data/' + 'x' * 150
  lines = banner([('reason', 'word ' * 60), ('where', path)]).splitlines()
  assert max(len(line) for line in lines[:-1]) <= 120
  assert all(line.startswith('          word') for line in lines[1:-1])
  assert lines[-1] == f'  where   {path}'


def test_the_summary_says_what_came_out():
  text = summary(
    step=1000,
    total_steps=1000,
    seconds=200.4,
    train={'loss': 0.12345},
    evaluation={'accuracy': 0.98, 'loss': 0.07},
    best=('accuracy', 0.981, 800),
    rate=Rate(900, 90.0, 64),
    places=[('metrics', '/runs/digits/metrics.jsonl')],
  )
  lines = {line[2:14].strip(): line[14:] for line in text.splitlines()[1:]}
  assert text.startswith('Training is complete.\n')
  assert lines['steps'] == '1,000 of 1,000'
  assert lines['training'] == 'loss 0.1235'
  assert lines['evaluation'] == 'accuracy 0.9800, loss 0.07000'
  assert lines['best'] == 'accuracy 0.9810 at step 800'
  assert lines['wall time'] == '3 min 20 s (this attempt)'
  assert lines['throughput'].startswith('640 examples/s, 100 ms per step (over 900 steps;')
  assert lines['metrics'] == '/runs/digits/metrics.jsonl'


def test_the_summary_of_a_short_attempt_invents_nothing():
  text = summary(step=1, total_steps=10, seconds=9.0, rate=Rate(0, 0.0, 64))
  assert 'same command goes on' in text
  assert 'throughput  n/a' in text
  assert 'best' not in text
  assert 'evaluation  ' not in text
