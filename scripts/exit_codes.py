"""The table of exit codes, and what each platform makes of them. Run, it prints docs/exit_codes.md.

The codes are those of scripts/restarts.py and trainer/errors.py. Another platform is another column here.
"""

from __future__ import annotations

import dataclasses

import restarts

OTHER = None  # any other code, and a signal
CODES: dict[int | None, tuple[str, str]] = {
  restarts.COMPLETE: ('complete', 'all steps are done; the last checkpoint is there'),
  restarts.USER_MISTAKE: ("a mistake of the user's", 'one line on stderr says what it is, and the fix'),
  restarts.DIVERGED: ('diverged', 'the loss is not finite, or a spike, and the config says to end then'),
  restarts.RUN_AGAIN: (
    'run again',
    'stopped before the end (a notice, a lost worker, a hang), saved as far as possible',
  ),
  OTHER: ('a crash', 'a traceback or a signal (137: killed, often for memory)'),
}


@dataclasses.dataclass(frozen=True)
class Platform:
  """Who looks at the exit code.

  Attributes:
    name: heading of its column.
    actions: for each of CODES what it does.
  """

  name: str
  actions: dict[int | None, str]


def _by_policy(again: str) -> dict[int | None, str]:
  """What scripts/restarts.py decides, where `again` says how a next attempt comes about."""
  ends: dict[int | None, str] = dict.fromkeys(restarts.FINAL, 'ends')
  return {**ends, restarts.RUN_AGAIN: again, OTHER: again}


PLATFORMS = (
  Platform('`supervise`', _by_policy('starts the trainer again')),
  Platform(
    '`tune`: end of a run',
    {
      **_by_policy('starts the run again'),
      restarts.COMPLETE: 'the point is complete',
      restarts.USER_MISTAKE: 'the point has failed, the others go on',
      restarts.DIVERGED: 'the point has diverged, the others go on',
    },
  ),
  Platform('`launch_local`, `launch_ssh`', _by_policy('starts all workers again')),
  Platform(
    '`launch_slurm`: end of an attempt',
    {
      **_by_policy('queues the job again (`scontrol requeue`)'),
      OTHER: 'starts all workers again in the same allocation',
    },
  ),
  Platform(
    '`launch_tpu`',
    {
      **_by_policy('supervise on the machine starts it again; if it gave up, set up and start again'),
      restarts.COMPLETE: 'ends; `--delete_when_done` deletes the TPU',
      restarts.USER_MISTAKE: 'ends; `--delete_when_done` deletes the TPU',
      restarts.DIVERGED: 'ends; `--delete_when_done` deletes the TPU',
    },
  ),
  Platform(
    '`launch_k8s`: end of a pod',
    {
      restarts.COMPLETE: 'this index is complete',
      restarts.USER_MISTAKE: 'FailJob: the Job has failed, the other pods are ended',
      restarts.DIVERGED: 'FailJob: the Job has failed, the other pods are ended',
      restarts.RUN_AGAIN: 'Count: the pod is replaced, at most `--backoff_limit` times (supervise gave up, or STOP)',
      OTHER: 'the same: no rule, so it counts',
    },
  ),
)


def page() -> str:
  """docs/exit_codes.md."""
  head = ['code', 'means', *(platform.name for platform in PLATFORMS)]
  rows = [head, ['---'] * len(head)]
  for code, (word, meaning) in CODES.items():
    rows.append(
      [
        'other' if code is OTHER else str(code),
        f'**{word}**: {meaning}',
        *(platform.actions[code] for platform in PLATFORMS),
      ]
    )
  table = '\n'.join(f'| {" | ".join(row)} |' for row in rows)
  mistake, diverged, again, stop = restarts.USER_MISTAKE, restarts.DIVERGED, restarts.RUN_AGAIN, restarts.STOP_FILE
  return f"""# Exit codes

Made by `python3 scripts/exit_codes.py > docs/exit_codes.md`.

{table}

A next attempt is made only as long as there is progress: after `--attempts` in a row without a new checkpoint everybody
gives up, and ends with the last code. Between two without progress there is a wait, doubled up to a minute. A file
`{stop}` in the work directory ends a run with {again} and keeps it from being started again, until it is removed.

On Kubernetes scripts/supervise runs inside each pod, so most attempts never become the end of a pod. A pod that
Kubernetes takes away itself (condition DisruptionTarget: a drained or preempted node, an eviction) is replaced and
counts for nothing, unless it ended with {mistake} or {diverged}. When one worker is lost, the others' collectives fail,
so they end with {again}, and are started again in their pods, where they wait for it.

A TPU that is lost counts as an attempt of `launch_tpu`, with what code the run ended or without one.
"""


if __name__ == '__main__':
  print(page(), end='')
