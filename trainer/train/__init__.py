"""How it is learnt: the state, the step, the evaluation and the order of events."""
