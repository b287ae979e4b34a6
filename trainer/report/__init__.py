"""What a run says: metrics.jsonl, TensorBoard, the progress line, throughput, banner and summary, run.json.

`Reporter` (reporter.py) is the door for training; each of the other files knows one of these.

Nothing here knows TensorFlow, the model or the loop: numbers and words come in, files and lines go out.
"""
