"""Open-loop load beyond what the device can do, in simulated time."""

import asyncio
import math
import random
from dataclasses import dataclass

import pytest

from pairlens_server.errors import DeadlineUnreachableError, QueueFullError
from tests.engine.simulation import PIXELS, Bench, Model, Work, simulate

BATCH = 16
CALLS = 1200  # as many as the device can do, from the first call to the last
LEARNING = 300  # of these, before anything is known of the model and the queue is as it stays
LOADS = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Device:
    """Seconds of a batch are `fixed_s + each_s * cost`, and differ by a fifth.

    Attributes:
        deadline_s: Of each call.
        noise: Of the logarithm of a batch's seconds, the standard deviation.
        load_s: Seconds in which a picture's pixels are made, two at a time; twice as long while
            the device runs, which takes as much longer meanwhile.
    """

    fixed_s: float
    each_s: float
    deadline_s: float
    noise: float = 0.2
    load_s: float = 0.0

    def seconds(self, cost):
        return self.fixed_s + self.each_s * cost

    @property
    def capacity(self):
        """Calls in a second, in full batches, or as fast as pixels are made meanwhile."""
        made = 1 / self.load_s if self.load_s else math.inf
        return min(BATCH / self.seconds(BATCH), made)


class Load:
    """Calls at random moments, each of one of eight clients."""

    def __init__(self, device, load, seed=0):
        self.device = device
        self.load = load
        self.chance = random.Random(seed)
        self.making = 0
        self.in_time = self.late = self.refused = self.refused_late = 0
        self.seconds = []
        simulate(self.run)

    async def run(self):
        bench = Bench(self.batch_seconds, max_batch=BATCH, max_loading=4)
        self.bench, self.threads = bench, asyncio.Semaphore(2)
        engine = await bench.start()
        loop = asyncio.get_running_loop()
        rate = self.load * self.device.capacity
        calls, asked_s = [], 0.0
        while asked_s < CALLS / self.device.capacity:
            asked_s += self.chance.expovariate(rate)
            await asyncio.sleep(asked_s - loop.time())
            calls.append(asyncio.ensure_future(self.call(engine)))
        await asyncio.gather(*calls)
        counted_s = (CALLS - LEARNING) / self.device.capacity
        self.goodput = self.in_time / counted_s / self.device.capacity
        assert engine.queued_cost == 0
        await engine.stop()

    def batch_seconds(self, cost):
        slowed = 1.0 + 0.15 * self.making
        noise = self.chance.lognormvariate(0, self.device.noise)
        return self.device.seconds(cost) * noise * slowed

    async def make(self):
        async with self.threads:
            self.making += 1
            busy = 1.0 + (self.bench.device._free_s > asyncio.get_running_loop().time())
            try:
                await asyncio.sleep(self.device.load_s * busy * self.chance.uniform(0.5, 1.5))
            finally:
                self.making -= 1
        return PIXELS

    async def call(self, engine):
        loop = asyncio.get_running_loop()
        since_s = loop.time()
        deadline_s = since_s + self.device.deadline_s
        client = f"c{self.chance.randrange(8)}"
        try:
            pixels = self.make if self.device.load_s else PIXELS
            await engine.record(MODEL, pixels, [Work()], deadline_s=deadline_s, client=client)
            refused = False
        except (QueueFullError, DeadlineUnreachableError):
            refused = True
        if not LEARNING <= loop.time() * self.device.capacity <= CALLS:
            return
        seconds = loop.time() - since_s
        if refused:
            self.refused += 1
            self.refused_late += seconds > self.device.deadline_s / 4
            return
        self.seconds.append(seconds)
        self.in_time += loop.time() <= deadline_s
        self.late += loop.time() > deadline_s

    @property
    def taken_on(self):
        """Calls that were answered, or refused only after they had waited."""
        return len(self.seconds) + self.refused_late

    @property
    def p99(self):
        """Seconds of calls that were done."""
        return sorted(self.seconds)[int(0.99 * len(self.seconds))]


MODEL = Model()
DEVICES = {
    "GPU": Device(0.010, 0.001, 0.25),
    "GPU, time for three batches": Device(0.010, 0.001, 0.08),
    "CPU": Device(0.0, 0.05, 2.0),
    "CPU, less time than a full batch takes": Device(0.0, 0.05, 0.6),
    "CPU that also decodes": Device(0.0, 0.04, 1.0, noise=0.4, load_s=0.015),
    "GPU, slow decoding": Device(0.010, 0.001, 0.25, noise=0.4, load_s=0.005),
    "CPU, more time than the queue holds": Device(0.0, 0.05, 60.0),
}


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_goodput_stays_and_what_is_admitted_is_in_time(device):
    loads = {load: Load(device, load) for load in LOADS}
    peak = max(load.goodput for load in loads.values())
    assert peak > 0.7
    assert loads[4.0].goodput >= 0.9 * peak
    for load in loads.values():
        assert load.p99 <= device.deadline_s
        assert load.late <= 0.01 * (load.late + load.in_time)
        # Who is refused is told early; few are taken on in vain.
        assert load.late + load.refused_late <= 0.05 * load.taken_on


def test_nobody_is_refused_where_there_is_enough_for_all():
    load = Load(DEVICES["GPU"], 0.5)
    assert load.refused == load.late == 0
