import pytest

from tools.simulation.runner import Simulator


@pytest.fixture
def simulator(mongodb_uri, request):
    simulator = Simulator(mongodb_uri, f"simulation_{abs(hash(request.node.name))}")
    yield simulator
    simulator.drop()
    simulator.close()
