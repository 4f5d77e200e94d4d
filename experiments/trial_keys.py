"""What a trial's numbers hang on, and a key made of it: trials of one content are one trial."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import asdict
from typing import Any

from ..envs.open_source import open_source
from ..envs.sources import SPLITS
from ..envs.weights import weights_sha256
from .studies import OBSERVATION, Trial


class TrialKeys:
    """Says what trials' numbers hang on; what they read is looked at once.

    Example:
        >>> TrialKeys().content_sha256("noise")
        {'train': {}, 'evaluation': {}}
    """

    def __init__(self) -> None:
        self._contents: dict[str, dict[str, dict[str, str]]] = {}

    def content_of(self, trial: Trial) -> dict[str, Any]:
        """All that a trial's numbers hang on, but for the machine and its libraries.

        What agent and environment are called is not among it; what is read is, by its hash, and so
        is the module of an agent of the user's own.

        Args:
            trial: Of a resolved study.

        Returns:
            Ready for JSON.
        """
        agent, arguments = trial.agent, trial.environment.arguments
        weights = arguments["weights"]
        return {
            "environment": {"id": trial.environment.id, "arguments": arguments},
            "agent": {
                "agent": agent.agent,
                "options": agent.options,
                **{name: getattr(agent, name) for name in OBSERVATION},
                "module_sha256": agent.kind().module_sha256,
            },
            "seed": trial.seed,
            "steps": trial.steps,
            "earlier_steps": list(trial.earlier_steps),
            "lanes": trial.lanes,
            "evaluation": asdict(trial.evaluation),
            "content_sha256": self.content_sha256(arguments["source"]),
            "weights_sha256": weights_sha256(weights) if weights else None,
            "spangym": importlib.metadata.version("spangym"),
        }

    def key_of(self, trial: Trial) -> str:
        """A hash of `content_of`, 16 hexadecimal digits."""
        content = json.dumps(self.content_of(trial), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def content_sha256(self, source: str) -> dict[str, dict[str, str]]:
        """Hashes of what a source reads, by split and kind."""
        if source not in self._contents:
            self._contents[source] = {
                split: open_source(source, split).content_hashes() for split in SPLITS
            }
        return self._contents[source]
