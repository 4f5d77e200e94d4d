"""Comparisons of agents: studies, runner, statistics, reports, command line."""
