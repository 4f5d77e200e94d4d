"""Comparisons of agents: studies, the runner, statistics, pictures and the command line."""
