"""The coordinator: compiles the Dag, publishes the plan, leads, assigns partitions to workers, says when a job is over."""
