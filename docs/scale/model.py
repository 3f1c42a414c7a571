#!/usr/bin/env python3
"""A discrete-event model of vstar's queue: GPUs that claim jobs, and the Postgres that hands them out.

    docs/scale/model.py saturation    # full load: what the database does, and where it is full
    docs/scale/model.py day           # one day of a trace's shape

The costs of statements are measured (docs/benchmarks.md#queue); `--cores-per ...` options replace them. All randomness is
seeded. Needs nothing but Python 3.9.
"""

import argparse
import collections
import heapq
import math
import random

# Seconds of a core of Postgres per statement.
MEASURED = {
    "enqueue": 0.31e-3,  # one job, with its place
    "claim": 0.40e-3,  # one claim of one job
    "claimed_job": 0.13e-3,  # each further job of a claim
    "report": 0.18e-3,  # one renewal of a lease with progress
    "end": 0.25e-3,  # the end of a job
}

# What a job does. A training is 250 steps on a GPU; a batch is eight samples of 50 steps.
TRAINING_SECONDS = 120.0
BATCH_SECONDS = 5.0
BATCH = 8

Report = collections.namedtuple("Report", "interval per_worker")
NOW = Report(interval=0.5, per_worker=False)  # as the program is: each job by itself, twice a second
GROUPED = Report(interval=0.5, per_worker=True)  # one statement for all jobs of a worker
RARE = Report(interval=5.0, per_worker=True)  # and every five seconds


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


class Database:
    """`cores` servers and one line before them. What is periodic (reports) only makes the servers slower."""

    def __init__(self, cores, costs, background):
        self.costs, self.busy = costs, 0.0
        # The share of the cores that reports leave.
        self.left = max(0.0, 1.0 - background / cores)
        self.free_at = [0.0] * cores
        self.cores = cores

    def run(self, now, cost, rng):
        """When a statement that is sent now is answered."""
        if self.left <= 0.01:
            return math.inf
        start = max(now, heapq.heappop(self.free_at))
        took = rng.expovariate(1.0 / cost) / self.left
        heapq.heappush(self.free_at, start + took)
        self.busy += cost
        return start + took


def report_load(gpus, training_share, report, costs):
    """Cores that reports take when all GPUs work."""
    trainings = gpus * training_share
    jobs = trainings + (gpus - trainings) * (1 if report.per_worker else BATCH)
    return jobs / report.interval * costs["report"]


def full_load(gpus, cores, training_share, report, costs, seconds=60.0, seed=1):
    """All GPUs claim, work and end jobs; the queue is never empty. Returns figures of the steady state."""
    rng = random.Random(seed)
    database = Database(cores, costs, report_load(gpus, training_share, report, costs))
    trainings = int(gpus * training_share)
    waits, jobs, idle = [], 0, 0.0
    # Every GPU asks for the first time somewhere in its first job.
    events = []
    for gpu in range(gpus):
        length = TRAINING_SECONDS if gpu < trainings else BATCH_SECONDS
        heapq.heappush(events, (rng.uniform(0, length), gpu))
    warm = seconds / 3
    while events:
        now, gpu = heapq.heappop(events)
        if now > seconds:
            break
        is_training = gpu < trainings
        count = 1 if is_training else BATCH
        # The jobs that have ended, those that are queued in their place, and the next claim.
        for _ in range(count):
            database.run(now, costs["end"], rng)
            database.run(now, costs["enqueue"], rng)
        claimed = database.run(now, costs["claim"] + (count - 1) * costs["claimed_job"], rng)
        if claimed == math.inf:
            return None
        if now > warm:
            waits.append(claimed - now)
            idle += claimed - now
            jobs += count
        length = TRAINING_SECONDS if is_training else BATCH_SECONDS
        heapq.heappush(events, (claimed + rng.uniform(0.9, 1.1) * length, gpu))
    measured = seconds - warm
    background = report_load(gpus, training_share, report, costs)
    return {
        "jobs": jobs / measured,
        "cores": database.busy / seconds + background,
        "reports": background / costs["report"],
        "p50": quantile(waits, 0.5),
        "p99": quantile(waits, 0.99),
        "idle": idle / (gpus * measured),
    }


def is_enough(gpus, cores, training_share, report, costs):
    """Whether GPUs wait for the database less than a hundredth of their time, and 99 of 100 claims less than 0.1 s."""
    figures = full_load(gpus, cores, training_share, report, costs, seconds=30.0)
    return figures is not None and figures["idle"] < 0.01 and figures["p99"] < 0.1


def most_gpus(cores, training_share, report, costs):
    """The largest number of GPUs for which the database is enough, to a twentieth."""
    low, high = 1, 2
    while high < 200_000 and is_enough(high, cores, training_share, report, costs):
        low, high = high, 2 * high
    while high > 1.05 * low:
        middle = (low + high) // 2
        if middle == low:
            break
        if is_enough(middle, cores, training_share, report, costs):
            low = middle
        else:
            high = middle
    return low


def saturation(args, costs):
    share = args.training_share
    print(f"Every GPU works: {share:.0%} on trainings of {TRAINING_SECONDS:.0f} s, the rest on batches of {BATCH} samples "
          f"of {BATCH_SECONDS:.0f} s. {args.cores} cores of Postgres.\n")
    print("| GPUs | reports | jobs/s | reports/s | cores of Postgres | claim p50, p99 | GPUs wait |\n|---|---|---|---|---|---|---|")
    names = [(NOW, "each job, twice a second"), (GROUPED, "each worker, twice a second"), (RARE, "each worker, every 5 s")]
    for gpus in (100, 1000, 10_000):
        for report, name in names:
            figures = full_load(gpus, args.cores, share, report, costs)
            if figures is None:
                load = report_load(gpus, share, report, costs)
                print(f"| {gpus} | {name} | | {load / costs['report']:.0f} | {load:.1f} for reports alone: full | | |")
                continue
            full = ": full" if figures["idle"] > 0.01 else ""
            print(f"| {gpus} | {name} | {figures['jobs']:.0f} | {figures['reports']:.0f} | {figures['cores']:.2f}{full} "
                  f"| {1e3 * figures['p50']:.1f} ms, {1e3 * figures['p99']:.0f} ms | {figures['idle']:.1%} |")
    print("\n| reports | most GPUs on 2 cores | 8 cores | 32 cores |\n|---|---|---|---|")
    for report, name in names:
        most = [most_gpus(cores, share, report, costs) for cores in (2, 8, 32)]
        print(f"| {name} | {most[0]} | {most[1]} | {most[2]} |")


class Lru:
    """Deltas that a worker keeps, by bytes."""

    def __init__(self, places):
        self.places, self.kept = places, collections.OrderedDict()

    def use(self, key):
        """Whether it was there."""
        hit = key in self.kept
        if hit:
            self.kept.move_to_end(key)
        else:
            self.kept[key] = None
            if len(self.kept) > self.places:
                self.kept.popitem(last=False)
        return hit


def zipf(count, exponent):
    """Cumulative weights of `count` concepts."""
    total, cumulative = 0.0, []
    for rank in range(1, count + 1):
        total += rank ** -exponent
        cumulative.append(total)
    return cumulative


def arrivals(per_day, peak, bursts, rng):
    """Times of a day's requests: a sine between night and day, and some requests that come as bursts of one user."""
    times, now = [], 0.0
    highest = per_day / 86_400 * peak
    mean_burst = 1 + bursts
    while now < 86_400:
        now += rng.expovariate(highest / mean_burst)
        level = (1 + (peak - 1) * math.sin(2 * math.pi * (now / 86_400 - 0.25))) / peak
        if rng.random() < max(0.0, level):
            size = 1 + int(rng.expovariate(1 / bursts) + rng.random()) if bursts else 1
            times.extend(now + 0.2 * place for place in range(size))
    return sorted(time for time in times if time < 86_400)


def day(args, costs):
    rng = random.Random(7)
    weights = zipf(args.concepts, args.zipf)
    times = arrivals(args.requests / args.days, args.peak, args.bursts, rng)
    concepts = rng.choices(range(args.concepts), cum_weights=weights, k=len(times))
    print(f"One day of {len(times)} samples ({args.requests} in {args.days} days) over {args.concepts} concepts, Zipf "
          f"{args.zipf}; the busiest minute has {busiest(times, 60)}.\n")
    print("| GPUs | wait p50 | p99 | longest | mean batch | GPU-hours of work | device busy | delta found on its worker |\n"
          "|---|---|---|---|---|---|---|---|")
    for gpus in args.gpus:
        figures = serve(times, concepts, gpus, args)
        print("| {} | {:.2f} s | {:.2f} s | {:.0f} s | {:.2f} | {:.1f} | {:.1%} | {:.1%} |".format(gpus, *figures))
    reports = args.image_seconds / NOW.interval
    cost = costs["enqueue"] + costs["claim"] + reports * costs["report"] + costs["end"]
    rows = len(times) * (1 + 4 + reports)
    print(f"\nThe database: {len(times) * (3 + reports):.0f} statements, {len(times) * cost:.0f} s of a core, "
          f"{len(times) * cost / 86_400:.2%} of one core over the day; {rows:.0f} rows written or written again.")


def busiest(times, seconds):
    counts = collections.Counter(int(time / seconds) for time in times)
    return max(counts.values())


def serve(times, concepts, gpus, args):
    """First come, first served, in batches of what waits; a batch of n takes longer than one image alone."""
    free = [(0.0, gpu) for gpu in range(gpus)]
    caches = [Lru(int(args.cache_mib / args.delta_mib)) for _ in range(gpus)]
    waits, batches, busy, hits, place = [], [], 0.0, 0, 0
    while place < len(times):
        free_at, gpu = heapq.heappop(free)
        now = max(free_at, times[place])
        count = 1
        while place + count < len(times) and count < BATCH and times[place + count] <= now:
            count += 1
        took = args.image_seconds * (1 + args.batch_slope * (count - 1))
        for index in range(place, place + count):
            waits.append(now - times[index])
            hit = caches[gpu].use(concepts[index])
            hits += hit
            took += 0.0 if hit else args.delta_mib / args.store_mib_per_second
        heapq.heappush(free, (now + took, gpu))
        batches.append(count)
        busy += took
        place += count
    return (quantile(waits, 0.5), quantile(waits, 0.99), max(waits), sum(batches) / len(batches), busy / 3600,
            busy / (86_400 * gpus), hits / len(times))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["saturation", "day"])
    parser.add_argument("--cores", type=int, default=8, help="of Postgres, at the speed of those that were measured")
    parser.add_argument("--training-share", type=float, default=0.5, help="share of the GPUs that train")
    parser.add_argument("--requests", type=int, default=550_000)
    parser.add_argument("--days", type=int, default=20)
    parser.add_argument("--concepts", type=int, default=10_000)
    parser.add_argument("--zipf", type=float, default=1.0)
    parser.add_argument("--peak", type=float, default=2.0, help="the busiest hour over the mean")
    parser.add_argument("--bursts", type=float, default=2.0, help="further requests that come with one, on average")
    parser.add_argument("--gpus", type=int, nargs="*", default=[2, 3, 4, 8])
    parser.add_argument("--image-seconds", type=float, default=2.5, help="of one image alone on a GPU")
    parser.add_argument("--batch-slope", type=float, default=0.5, help="what a further image of a batch takes of that")
    parser.add_argument("--delta-mib", type=float, default=38.0)
    parser.add_argument("--cache-mib", type=float, default=1024.0)
    parser.add_argument("--store-mib-per-second", type=float, default=100.0)
    for name, cost in MEASURED.items():
        parser.add_argument(f"--cores-per-{name.replace('_', '-')}", type=float, default=cost, help="core seconds")
    args = parser.parse_args()
    costs = {name: getattr(args, f"cores_per_{name}") for name in MEASURED}
    {"saturation": saturation, "day": day}[args.part](args, costs)


if __name__ == "__main__":
    main()
