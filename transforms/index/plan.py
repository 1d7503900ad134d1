"""How retrieval of a size should run: every way that is known, what it takes, and one rule that chooses.

All figures are linear in what they are reckoned from, `Speeds`; nothing is measured here. Every item is taken to be
open to every listener: what a market keeps from its listeners makes an exact search cheaper than said.

A worker is one core with its memory. Where the items are too many for it they are split into shards; it takes a block
of users through all shards, one after the other, so that results are moved once whatever the shards.
"""

import dataclasses
import math

GIB = 2**30
HOUR = 3_600
FLOAT32, BFLOAT16 = "exact, float32", "exact, bfloat16"
IVF_PQ, GPU = "IVF-PQ, refined", "exact, GPU in chunks"
MOST_IN_SHARD, LEAST_IN_SHARD = 20_000_000, 1_000_000
"""Vectors in a shard; with less of them than the least, what a query costs by itself outweighs its scores."""
MOST_ITEMS, MOST_DIM = 2**31 - 1, 2_048
"""Rows are int32."""
USERS_AT_ONCE, QUERIES_AT_ONCE = 65_536, 1_024
"""Users that a worker takes through the shards together, and of them those asked at once."""
RESULT_BYTES = 8
"""An int32 row and a float32 score."""
FLAG_BYTES, MASK_BYTES = 6 + 32, 64
"""Of an item besides a byte per market (`transforms.reach`, `transforms.kin`); masks of the listeners in hand."""
ROW_BYTES = 12
"""Of a market's item: where it is in the index, in eight bytes and in four."""
PROCESS_BYTES = 585_000_000
"""A worker before it holds an item: 435 MB with Beam, torch, faiss and polars loaded, 150 MB for a search."""
REFINED = 4
"""Candidates of IVF-PQ that are scored again, in k."""


@dataclasses.dataclass(frozen=True, slots=True)
class Speeds:
    """What the plan rests on. Seconds, on one core or one GPU, at dim 128 and k 500 unless said otherwise.

    Attributes:
      float32_score: a score, product and selection; `python -m benchmarks.retrieval`, one core with AVX-512; with AVX2 only, twice as much.
      bfloat16_score: the same in bfloat16; measured on one core with AMX.
      score_floor: the share of a score that does not grow with dim, below dim 128; on the same machine a score took 0.7,
        0.9, 1.3, 2.1, 4.0 and 8.0 ns at dim 16, 32, 64, 128, 256 and 512.
      query: a query by itself: sample, scoring again, sorting; the same benchmark. With a GPU it is done beside it, on one core.
      gathering: what gathering an item costs, in scores; the same benchmark.
      pq_items, pq_lists, pq_probed: the index that was measured, IVF4096,PQ64x4fs at 1 M items, and the lists looked into.
      pq_queries, pq_queries_deep: queries a second with refinement x4, at `pq_probed` lists and at `pq_probed_deep`;
        measured on one core with AMX. The difference is what codes cost, the rest what a query costs by itself.
      pq_build: building it; the same.
      pq_recall: by k, up to which it is known; the same, synthetic clusters.
      gpu_queries: of 1 M items a second. A roof from data sheets of an H200 (790 TFLOP/s, 4.8 TB/s), not a measurement.
      gpu_product: share of it that grows with dim, the product; the rest is scores written and read.
      gpu_bus: bytes a second between host and card; a PCIe 4.0 x16 slot carries 25 of its 32 GB/s.
      gpu_memory: bytes, of the smallest card of that class.
      gpu_price: what an hour of such a card costs, in hours of a core; the order of public price lists.
    """

    float32_score: float = 2.1e-9
    bfloat16_score: float = 1.2e-9
    score_floor: float = 0.25
    query: float = 0.08e-3
    gathering: int = 40
    pq_items: int = 1_000_000
    pq_lists: int = 4_096
    pq_probed: int = 256
    pq_probed_deep: int = 1_024
    pq_queries: float = 1_321.0
    pq_queries_deep: float = 772.0
    pq_build: float = 26.0
    pq_recall: tuple[tuple[int, float], ...] = ((100, 0.992), (500, 0.949))
    gpu_queries: float = 500_000.0
    gpu_product: float = 0.16
    gpu_bus: float = 25e9
    gpu_memory: int = 80 * GIB
    gpu_price: float = 100.0

    @property
    def pq_code(self) -> float:
        """Seconds per code looked at."""
        more = (self.pq_probed_deep - self.pq_probed) / self.pq_lists * self.pq_items
        return (1 / self.pq_queries_deep - 1 / self.pq_queries) / more

    @property
    def pq_query(self) -> float:
        """Seconds of a query by itself."""
        return 1 / self.pq_queries - self.pq_code * self.pq_items * self.pq_probed / self.pq_lists

    def recall_of_pq(self, k: int) -> float:
        """Return what IVF-PQ reached at k or at the next k that is known."""
        return next((recall for known, recall in self.pq_recall if k <= known), self.pq_recall[-1][1])

    def rests_on(self) -> tuple[str, ...]:
        """Say in words where the figures are from."""
        lists = f"IVF{self.pq_lists},PQ64x4fs"
        return (
            f"float32: {self.float32_score * 1e9:.3g} ns per score at dim 128 and {self.query * 1e3:.2g} ms per query at"
            " k=500, one core with AVX-512 (python -m benchmarks.retrieval); with AVX2 only, twice that per score",
            f"bfloat16: {self.bfloat16_score * 1e9:.3g} ns per score at dim 128, measured on one core with AMX",
            f"IVF-PQ: {lists} at {self.pq_items:,} items of dim 128, {self.pq_probed} lists looked into, refined"
            f" x{REFINED}: {self.pq_queries:,.0f} queries a second, measured on one core with AMX; taken at any size with"
            " that share of the items looked at, in time linear in items and dim",
            f"GPU: at best {self.gpu_queries:,.0f} queries a second on 1,000,000 items of dim 128, a roof from data sheets;"
            f" an hour of it counts as {self.gpu_price:g} core hours",
        )


MEASURED = Speeds()


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """What is to be retrieved, and with what.

    Attributes:
      memory: GiB per worker. recall: of the exact best k, the least that will do. hours: that it may take; None: any.
      bfloat16: whether the workers' processors multiply bfloat16.

    Raises:
      ValueError: a figure makes no sense; says what to give.
    """

    items: int
    users: int
    dim: int
    workers: int
    k: int = 500
    markets: int = 184
    memory: float = 16.0
    recall: float = 0.99
    hours: float | None = None
    gpus: int = 0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        for name, meaning in _WHOLE.items():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name):,}; give the number of {meaning}")
        for name, most, instead in _AT_MOST:
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be {most:,} or less, got {getattr(self, name):,}; {instead}")
        if not 0 < self.recall <= 1:
            raise ValueError(
                f"recall must be above 0 and 1 at the most, got {self.recall}; 1 asks for the exact best k"
            )
        if not 0 < self.memory < math.inf:
            raise ValueError(f"memory must be above 0 and finite, got {self.memory}; give the GiB of a worker")
        if self.hours is not None and not 0 < self.hours < math.inf:
            raise ValueError(
                f"hours must be above 0 and finite, got {self.hours}; leave them out if it may take any time"
            )
        if self.gpus < 0:
            raise ValueError(f"gpus must be 0 or more, got {self.gpus}; leave them out where there are none")


_WHOLE = {
    "items": "vectors that are searched among", "users": "queries", "dim": "components of a vector",
    "workers": "workers, of one core each", "k": "results per user", "markets": "markets that items are offered in",
}  # fmt: skip
_AT_MOST = (
    ("items", MOST_ITEMS, "rows are int32: split the catalogue"),
    ("dim", MOST_DIM, "train vectors of fewer components"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Moved:
    """Bytes moved: items to each worker at work, once; vectors of users in; results out."""

    items_each: int
    at_work: int
    users: int
    results: int

    @property
    def items(self) -> int:
        """Bytes of items, to all workers."""
        return self.items_each * self.at_work


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One way of doing it, and what it takes.

    Attributes:
      per_item: bytes of an item in memory, by what they are. held: bytes per worker whatever the items: the process, and
        vectors and results of the users it has in hand.
      resident, mapped: bytes per worker, at one shard at a time; what is mapped is shared by the processes of a machine.
        needed: bytes of both that must be in memory for the speed that is said. least: with the smallest shards.
      work_hours: of cores or GPUs, see `unit`. hours: with the workers or GPUs there are; None where there are none.
      price: in core hours. lacks: what is missing to do it at all, nothing where it can be done.
    """

    method: str
    unit: str
    recall: float
    lacks: str
    shards: int
    per_item: tuple[tuple[str, int], ...]
    held: int
    resident: int
    mapped: int
    needed: int
    least: int
    work_hours: float
    hours: float | None
    price: float
    moved: Moved
    fits: bool
    reaches: bool
    in_time: bool

    @property
    def bytes_per_item(self) -> int:
        """Bytes of an item in memory, resident and mapped."""
        return sum(size for _, size in self.per_item)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How it should run: what was chosen of all options, why, and what to look out for, in words."""

    chosen: Option
    options: tuple[Option, ...]
    reason: str
    warnings: tuple[str, ...]


def plan(sizes: Sizes, speeds: Speeds = MEASURED) -> Plan:
    """Choose the cheapest way that can be done, fits in memory, reaches the recall and is done in time.

    Where none does all of it, time is given up first, then the recall, and memory last.
    """
    options = tuple(_weigh(way, sizes) for way in _ways(sizes, speeds))
    chosen = min(options, key=lambda one: (bool(one.lacks), not one.fits, not one.reaches, not one.in_time, one.price))
    return Plan(chosen, options, _reason(chosen, options, sizes), tuple(_warnings(chosen, sizes, speeds)))


def prefers_index(items: int, users: int, dim: int, recall: float, k: int) -> bool:
    """Tell whether building an index and asking it for so many users costs less than exact search in float32.

    In float32 on every machine: equal sizes must give equal results, whatever processor plans them.
    """
    if items > MOST_ITEMS or not items or not users:
        return False
    sizes = Sizes(items, users, dim, workers=1, k=k, recall=recall, markets=1)
    by_name = {one.method: one for one in plan(sizes).options}
    return by_name[IVF_PQ].reaches and by_name[IVF_PQ].price < by_name[FLOAT32].price


@dataclasses.dataclass(frozen=True, slots=True)
class _Way:
    """What a method takes: bytes per item, and seconds per query and item, per query and shard, and per item.

    Attributes:
      stored: bytes that every worker gets, besides the vectors. places: of where a market's items are, at the most of all.
      scans_mapped: every query reads all that is mapped, the vectors, or else a few rows of it.
      most_in_shard: vectors, beside what the worker's memory asks. units: how many cores or GPUs there are.
    """

    method: str
    stored: int
    places: int
    scans_mapped: bool
    of_pair: float
    of_query: float
    of_item: float = 0.0
    recall: float = 1.0
    lacks: str = ""
    unit: str = "core"
    units: int = 1
    price: float = 1.0
    most_in_shard: int = MOST_IN_SHARD


def _ways(sizes: Sizes, speeds: Speeds) -> tuple[_Way, ...]:
    """Return all ways there are.

    Times of scores are linear in dim, but for the floor; of a query by itself in k, down to a fifth for its sample, and
    a third of it in dim, for the rows that are scored again.
    """
    dim, cores = sizes.dim, sizes.workers
    scaled = dim / 128
    score = max(scaled, speeds.score_floor + (1 - speeds.score_floor) * scaled)
    query = max(sizes.k / 500, 0.2) * (2 + scaled) / 3
    pq_pair = speeds.pq_code * speeds.pq_probed / speeds.pq_lists * scaled
    gpu_pair = (1 - speeds.gpu_product + speeds.gpu_product * scaled) / speeds.gpu_queries / 1e6
    gpu_query = (4 * dim + RESULT_BYTES * sizes.k) / speeds.gpu_bus + speeds.query * query
    no_gpu = "" if sizes.gpus else "no GPU (GPUS=)"
    on_card = int(speeds.gpu_memory / (2 * dim * 1.3))  # bfloat16, and room for scores
    return (
        _Way(FLOAT32, 0, ROW_BYTES, True, speeds.float32_score * score, speeds.query * query, units=cores),
        _Way(
            BFLOAT16, 2 * dim, ROW_BYTES, True, speeds.bfloat16_score * score, speeds.query * query, units=cores,
            lacks="" if sizes.bfloat16 else "no bfloat16 (BFLOAT16=1)",
        ),
        _Way(
            IVF_PQ, math.ceil(dim / 4) + 12, 0, False, pq_pair, speeds.pq_query * query, units=cores,
            of_item=speeds.pq_build / speeds.pq_items * scaled, recall=speeds.recall_of_pq(sizes.k),
        ),
        _Way(
            GPU, 0, 0, True, gpu_pair, gpu_query, unit="GPU", units=sizes.gpus, price=speeds.gpu_price,
            lacks=no_gpu,
            most_in_shard=min(MOST_IN_SHARD, on_card),
        ),
    )  # fmt: skip


def _weigh(way: _Way, sizes: Sizes) -> Option:
    per_item = _per_item(way, sizes)
    vectors, others = per_item[0][1], sum(size for _, size in per_item[1:])
    held = min(sizes.users, USERS_AT_ONCE) * (RESULT_BYTES * sizes.k + 4 * sizes.dim) + PROCESS_BYTES
    in_memory = others + (vectors if way.scans_mapped else 0)
    room, least = int((sizes.memory * GIB - held) // in_memory), min(sizes.items, LEAST_IN_SHARD)
    shards = parts(sizes.items, max(min(room, way.most_in_shard), least))
    in_shard = parts(sizes.items, shards)
    needed = held + in_memory * in_shard
    work = sizes.users * (sizes.items * way.of_pair + shards * way.of_query) + sizes.items * way.of_item
    at_work = min(way.units, parts(sizes.users, QUERIES_AT_ONCE))
    hours = work / HOUR / at_work if at_work else None
    return Option(
        method=way.method,
        unit=way.unit,
        recall=way.recall,
        lacks=way.lacks,
        shards=shards,
        per_item=per_item,
        held=held,
        resident=held + others * in_shard,
        mapped=vectors * in_shard,
        needed=needed,
        least=held + in_memory * least,
        work_hours=work / HOUR,
        hours=hours,
        price=work / HOUR * way.price,
        moved=_moved(way, sizes, at_work),
        fits=needed <= sizes.memory * GIB,
        reaches=way.recall >= sizes.recall,
        in_time=sizes.hours is None or (hours is not None and hours <= sizes.hours),
    )


def _per_item(way: _Way, sizes: Sizes) -> tuple[tuple[str, int], ...]:
    """Return the bytes of an item by what they are, the mapped vectors first."""
    places = way.places if sizes.markets > 1 else 0
    every = (
        ("of vectors, mapped and shared by the processes of a machine", 4 * sizes.dim),
        ("of codes and ids" if way.method == IVF_PQ else "of vectors in bfloat16", way.stored),
        ("of where a market's items are, at the most of all", places),
        ("of what is open to whom and what is alike", sizes.markets + FLAG_BYTES + MASK_BYTES),
    )
    return tuple((words, size) for words, size in every if size)


def _moved(way: _Way, sizes: Sizes, at_work: int) -> Moved:
    made_there = way.stored if way.method == BFLOAT16 else 0
    item = 4 * sizes.dim + way.stored - made_there + sizes.markets + FLAG_BYTES
    result = RESULT_BYTES * min(sizes.k, sizes.items)
    return Moved(item * sizes.items, at_work, 4 * sizes.dim * sizes.users, result * sizes.users)


def parts(whole: int, part: int) -> int:
    """Return how many parts of a size a whole has, the last one perhaps smaller."""
    return -(-whole // part)


def _reason(chosen: Option, options: tuple[Option, ...], sizes: Sizes) -> str:
    asked = [(f"fits into {sizes.memory:g} GiB", chosen.fits), (f"reaches recall {sizes.recall:g}", chosen.reaches)]
    asked += [(f"is done in {sizes.hours:g} hours", chosen.in_time)] if sizes.hours else []
    met, missed = [words for words, yes in asked if yes], [words for words, yes in asked if not yes]
    that = f" that {' and '.join(met)}" if met else " that can be done"
    but = f"; none of those also {' or '.join(missed)}" if missed else ""
    left_out = [f"{one.method}: {_why_not(one, chosen, sizes)}" for one in options if one is not chosen]
    return f"It is the cheapest{that}{but}. Left out: {'; '.join(left_out)}."


def _why_not(one: Option, chosen: Option, sizes: Sizes) -> str:
    if one.lacks:
        return one.lacks
    if chosen.fits and not one.fits:
        return f"needs {one.least / GIB:,.1f} GiB"
    if chosen.reaches and not one.reaches:
        return f"reached recall {one.recall:g}"
    if chosen.in_time and not one.in_time:
        return f"not done in {sizes.hours:g} hours"
    return f"dearer by {one.price / chosen.price - 1:,.0%}"


def _warnings(chosen: Option, sizes: Sizes, speeds: Speeds) -> list[str]:
    found = []
    if chosen.shards > 1:
        found.append("items in shards are not built yet: jobs search with all items on every worker")
    if not chosen.fits:
        enough = math.ceil(10 * chosen.least / GIB) / 10
        found.append(
            f"memory does not suffice, {sizes.memory:g} GiB: the smallest shard needs MEMORY={enough:g} per worker"
        )
    if sizes.hours and not chosen.in_time and chosen.hours:
        found.append(_too_late(chosen, sizes))
    reached = speeds.recall_of_pq(sizes.k)
    if reached < sizes.recall:
        at = min((known for known, _ in speeds.pq_recall if sizes.k <= known), default=speeds.pq_recall[-1][0])
        found.append(f"recall {sizes.recall:g} is above what IVF-PQ reached, {reached:g} at k={at}")
    batches = parts(sizes.users, QUERIES_AT_ONCE)
    if chosen.unit == "core" and sizes.workers > batches:
        found.append(
            f"{sizes.workers - batches:,} workers have nothing to do: users go in {batches:,} batch(es) of {QUERIES_AT_ONCE:,}"
        )
    alike = sizes.users // (sizes.workers + sizes.markets - 1)
    if chosen.method in (FLOAT32, BFLOAT16) and sizes.markets > 1 and alike < speeds.gathering:
        found.append(
            f"{alike:,} users per market and worker: gathering a market's items costs what {speeds.gathering} users do"
        )
    return [*found, *(_of_pq(chosen, sizes, speeds) if chosen.method == IVF_PQ else _of_gpu(chosen))]


def _too_late(chosen: Option, sizes: Sizes) -> str:
    assert sizes.hours is not None
    need = math.ceil(chosen.work_hours / sizes.hours)
    batches = parts(sizes.users, QUERIES_AT_ONCE)
    knob, noun = ("GPUS", "GPUs") if chosen.unit == "GPU" else ("WORKERS", "workers")
    if need > batches:
        return f"no number of {noun} does it in {sizes.hours:g} hours: users go in {batches:,} batch(es)"
    return f"more {noun} are needed to be done in {sizes.hours:g} hours: {knob}={need}"


def _of_pq(chosen: Option, sizes: Sizes, speeds: Speeds) -> list[str]:
    most, _ = speeds.pq_recall[-1]
    found = [f"its recall was measured at {speeds.pq_items:,} synthetic vectors of dim 128: measure it on yours"]
    if sizes.k > most:
        found.append(f"its recall is not known above k={most}")
    if sizes.markets > 1:
        found.append("who may be offered less than a quarter of the items is searched for exactly")
    if chosen.resident + chosen.mapped > sizes.memory * GIB:
        rows = f"{REFINED * sizes.k:,} rows per user"
        found.append(f"the vectors do not fit beside the codes: {rows} are read from disk, which is not in the hours")
    return found


def _of_gpu(chosen: Option) -> list[str]:
    if chosen.method != GPU:
        return []
    return [
        "of GPU hours, the product is a roof from data sheets, not a measurement; scoring again, on a core beside it, is measured"
    ]
