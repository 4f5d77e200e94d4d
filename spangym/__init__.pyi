# In a checkout the packages are not in this folder.
# pyright: reportMissingImports=false
from . import agents as agents
from . import attention as attention
from . import envs as envs
from . import experiments as experiments
from .agents.agent_names import list_agents as list_agents
from .agents.registry import make_agent as make_agent
from .attention.transformers.control import SpanControl as SpanControl
from .attention.transformers.control import control as control
from .attention.transformers.load_model import load_model as load_model
from .attention.transformers.span_choosers import LagThreshold as LagThreshold
from .envs.registration import list_envs as list_envs
from .experiments.compare import compare as compare
from .experiments.run import Run as Run
from .experiments.run import load_run as load_run
from .experiments.studies.study import Study as Study
from .experiments.studies.study import StudyAgent as StudyAgent
from .experiments.studies.study import StudyEnv as StudyEnv

__version__: str
