"""Shares and waits, on a device that runs a pass in a second of a simulated clock."""

import heapq
import random
from concurrent.futures import Future

import pytest

from pairlens_server.engine.entry import Chunk, Entry
from pairlens_server.engine.scheduler import Scheduler
from pairlens_server.engine.settings import EngineSettings
from pairlens_server.errors import QueueFullError
from tests.engine.conftest import Numbers
from tests.engine.simulation import Model

BATCH = 8
MODELS = [Model("a"), Model("b"), Model("c")]


class Client:
    """Asks for work so often, or anew whenever it is answered.

    Args:
        name: Whose flow it is; None for a new name with every call.
        model: What it asks of.
        costs: What its calls cost, one of them each time.
        rate: Calls in a second, or None for the next one after each answer.
        probe: Whether its calls are chunks.
    """

    def __init__(self, name, model, costs=(1.0,), rate=None, probe=False):
        self.name = name
        self.model = model
        self.costs = costs
        self.rate = rate
        self.probe = probe
        self.served = 0.0
        self.waiting = 0.0
        self.refused = 0
        self.answers = []  # seconds waited, and own cost that waited at arrival

    @property
    def waits(self):
        return [wait_s for wait_s, _ in self.answers]


class Simulation:
    """Clients at a scheduler; a batch is taken when the last one is done."""

    def __init__(self, clients, seed, until_s, **settings):
        self.random = random.Random(seed)
        self.scheduler = Scheduler(EngineSettings(max_batch=BATCH, **settings), self.push_out)
        self.arrivals = [(self.random.random(), n, c) for n, c in enumerate(clients)]
        heapq.heapify(self.arrivals)
        self.owners = {}
        self.calls = 0
        self.now_s = 0.0
        while self.now_s < until_s:
            self.step()

    def push_out(self, entry, _error):
        client, _, _ = self.owners.pop(entry)
        client.refused += 1
        client.waiting -= entry.cost
        if client.rate is None:
            self.later(client, 1.0)

    def later(self, client, seconds):
        self.calls += 1
        heapq.heappush(self.arrivals, (self.now_s + seconds, 1000 + self.calls, client))

    def arrive(self, client):
        self.calls += 1
        cost = self.random.choice(client.costs)
        chunk = Chunk(Numbers("probe", 10, []), 0, 1) if client.probe else None
        name = client.name or f"new {self.calls}"
        entry = Entry(client.model, name, cost, None, Future(), chunk=chunk)
        if client.rate is not None:
            self.later(client, self.random.expovariate(client.rate))
        try:
            self.scheduler.admit(entry, self.now_s)
        except QueueFullError:
            client.refused += 1
            if client.rate is None:
                self.later(client, 1.0)
            return
        client.waiting += cost
        self.owners[entry] = (client, self.now_s, client.waiting)
        self.scheduler.ready(entry, self.now_s)

    def step(self):
        while self.arrivals and self.arrivals[0][0] <= self.now_s:
            self.arrive(heapq.heappop(self.arrivals)[2])
        batch = self.scheduler.take(self.now_s)
        if batch is None:
            self.now_s = self.arrivals[0][0]
            return
        end_s = self.now_s + batch.cost
        while self.arrivals and self.arrivals[0][0] <= end_s:
            self.now_s, _, client = heapq.heappop(self.arrivals)
            self.arrive(client)
        self.now_s = end_s
        self.scheduler.finished(batch, None, end_s)
        for entry in batch.entries:
            client, since_s, own = self.owners.pop(entry)
            client.served += entry.cost
            client.waiting -= entry.cost
            client.answers.append((end_s - since_s, own))
            if client.rate is None:
                self.later(client, 0.0)


def share(client, seconds):
    return client.served / seconds


@pytest.mark.parametrize("seed", range(5))
def test_clients_that_always_want_more_get_equal_shares_of_work(seed):
    chance = random.Random(seed)
    costs = [(1.0,), (1.0, 2.5), (3.0,), (10.0,), (1.0, 10.0)]
    clients = [
        Client(f"c{n}", chance.choice(MODELS), chance.choice(costs), rate=chance.uniform(1, 5))
        for n in range(chance.randint(2, 12))
    ]
    Simulation(clients, seed, 3000, max_queued=300)
    for client in clients:
        assert share(client, 3000) == pytest.approx(1 / len(clients), rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_who_wants_less_than_a_share_gets_it_all_soon_whatever_the_flood(seed):
    chance = random.Random(seed)
    hogs = [Client(f"hog{n}", chance.choice(MODELS), rate=2.0) for n in range(2)]
    light = [Client(f"c{n}", chance.choice(MODELS), rate=0.02) for n in range(8)]
    Simulation([*hogs, *light], seed, 4000, max_queued=200)
    for client in light:
        assert client.refused == 0
        # The batch that runs, those of each model in front, and its own.
        assert max(client.waits) <= (3 + len(MODELS)) * BATCH
    served = sum(client.served for client in light)
    assert sum(hog.served for hog in hogs) == pytest.approx(4000 - served, rel=0.02)
    assert share(hogs[0], 4000) == pytest.approx(share(hogs[1], 4000), rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_one_call_at_a_time_beside_a_flood_waits_for_little(seed):
    hog = Client("hog", MODELS[0], rate=4.0)
    steady = [Client(f"c{n}", MODELS[n % 2]) for n in range(4)]
    Simulation([hog, *steady], seed, 2000, max_queued=128)
    for client in steady:
        assert client.refused == 0
        assert max(client.waits) <= 4 * BATCH


@pytest.mark.parametrize("seed", range(3))
def test_an_old_call_is_served_though_new_clients_come_for_ever(seed):
    strangers = Client(None, MODELS[0], rate=4.0)
    patient = Client("patient", MODELS[1], rate=0.2)
    Simulation([strangers, patient], seed, 4000, max_queued=64)
    # 64 may wait, nearly all of them flows of their own; each moves the present on a little,
    # until it is as far behind their shares as a batch costs.
    assert patient.served >= 4000 / (3 * 64)
    assert max(patient.waits) <= 64 * (BATCH + 2)
    assert sorted(patient.waits)[-2] <= 2 * 64


@pytest.mark.parametrize("seed", range(3))
def test_long_probes_and_short_calls_share_the_device_by_work(seed):
    probes = [Client(f"p{n}", MODELS[0], (32.0,), rate=0.1, probe=True) for n in range(3)]
    short = [Client(f"c{n}", MODELS[0], rate=0.05) for n in range(6)]
    Simulation([*probes, *short], seed, 6000, max_queued=512)
    for client in short:
        assert client.refused == 0
        # A turn of everyone's.
        assert max(client.waits) <= 3 * 32 + 3 * BATCH
    for probe in probes:
        expected = (6000 - sum(c.served for c in short)) / 3
        assert probe.served == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_a_wait_is_bounded_by_what_one_has_waiting_oneself_and_by_the_number_of_others(seed):
    chance = random.Random(seed)
    clients = [
        Client(
            f"c{n}",
            chance.choice(MODELS),
            chance.choice([(1.0,), (2.5,), (10.0,), (1.0, 1.0, 10.0)]),
            rate=chance.choice([None, 0.01, 0.1, 1.0, 5.0]),
            probe=chance.random() < 0.2,
        )
        for n in range(chance.randint(3, 30))
    ]
    Simulation(clients, seed, 3000, max_queued=100)
    for client in clients:
        assert client.waits or client.refused
        for wait_s, own in client.answers:
            # A share of 1 in n of the device, and a turn of each before and after.
            assert wait_s <= len(clients) * (own + 2 * 10) + len(MODELS) * BATCH


def test_admission_is_fair_when_all_are_refused_most_of_the_time():
    clients = [Client(f"c{n}", MODELS[0], rate=r) for n, r in enumerate((0.2, 1.0, 3.0, 10.0))]
    Simulation(clients, 0, 4000, max_queued=40)
    shares = {client.name: share(client, 4000) for client in clients}
    assert shares["c0"] == pytest.approx(0.2, rel=0.1)  # all that it asked for
    for name in ("c1", "c2", "c3"):
        assert shares[name] == pytest.approx(0.8 / 3, rel=0.1)
