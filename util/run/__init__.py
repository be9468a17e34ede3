"""How does a run go on? Its folder, state, weights, counters, schedule and what the loop does now and then."""
