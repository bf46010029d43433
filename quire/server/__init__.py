"""HTTP: the only place that knows the OpenAI formats."""
