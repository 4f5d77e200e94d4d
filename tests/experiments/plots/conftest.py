import pytest

from spangym.experiments.plots.plot_data import PlotData

from ..drawing import plot_data_of
from ..pilot.synthetic import make_pilot
from ..synthetic import make_results


@pytest.fixture(scope="session")
def one() -> PlotData:
    """A comparison in one environment."""
    return plot_data_of(make_results())


@pytest.fixture(scope="session")
def speech() -> PlotData:
    """A pilot without attention maps."""
    return plot_data_of(make_pilot(examples=()))
