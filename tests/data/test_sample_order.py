from collections import Counter

import pytest

from lit_hour.data.sample_order import MIXTURE_BLOCK, MixedOrder, SourceOrder, permutation
from lit_hour.errors import ConfigError, ShardError

SAMPLES_PER_SHARD = (5, 1, 0, 9, 3, 7, 0, 4, 6, 2, 8)
EVERY_SAMPLE = Counter(
    (shard, sample) for shard, count in enumerate(SAMPLES_PER_SHARD) for sample in range(count)
)


def source(name="world", shuffle_shards=3, seed=5, samples_per_shard=SAMPLES_PER_SHARD):
    return SourceOrder(samples_per_shard, shuffle_shards, seed, name)


def mixture(weights, sizes):
    sources = {
        name: source(name, samples_per_shard=(size // 2, size - size // 2))
        for name, size in sizes.items()
    }
    return MixedOrder(sources, weights, seed=3)


def test_permutation_never_changes():
    # With other numbers, every existing checkpoint would resume with other samples.
    assert permutation(8, "samples", 1, "name", 0).tolist() == [0, 7, 2, 5, 4, 1, 6, 3]


@pytest.mark.parametrize("shuffle_shards", [1, 3, 11, 100])
def test_every_epoch_has_each_sample_once(shuffle_shards):
    order = source(shuffle_shards=shuffle_shards)
    epochs = [
        [order[epoch * order.num_samples + position] for position in range(order.num_samples)]
        for epoch in range(3)
    ]
    assert all(Counter(epoch) == EVERY_SAMPLE for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_order_depends_on_seed_and_name():
    orders = [source(), source(seed=6), source(name="other")]
    beginnings = [tuple(order[position] for position in range(20)) for order in orders]
    assert len(set(beginnings)) == 3


def test_source_order_is_a_function_of_the_position():
    sequence = [source()[position] for position in range(200)]
    for position in permutation(200, "positions"):
        assert source()[int(position)] == sequence[position]


def test_reading_stays_within_a_block_of_shards():
    order = source(shuffle_shards=3, samples_per_shard=(10,) * 12)
    for start in range(0, 240, 30):
        shards = {order[start + position][0] for position in range(30)}
        assert len(shards) == 3
    assert [order[position][1] for position in range(10)] != list(
        range(10)
    )  # samples are permuted inside the block


def test_source_without_samples_is_rejected():
    with pytest.raises(ShardError, match="'empty' has no sample"):
        SourceOrder((0, 0), 2, 0, "empty")


def test_weights_are_exact_over_passes():
    weights, sizes = (
        {"full": 1.0, "half": 0.5, "two_sources": 2.0, "seldom": 0.001},
        {"full": 700, "half": 90, "two_sources": 40, "seldom": 3},
    )
    order = mixture(weights, sizes)
    assert order.num_samples == 700 + 45 + 80 + 1
    for number in range(2):
        seen = Counter(
            order[number * order.num_samples + position][0] for position in range(order.num_samples)
        )
        assert seen == {"full": 700, "half": 45, "two_sources": 80, "seldom": 1}
    two_passes = Counter(order[position] for position in range(2 * order.num_samples))
    assert {count for (name, *_), count in two_passes.items() if name == "half"} == {1}
    assert (
        sum(name == "half" for name, *_ in two_passes) == 90
    )  # the second pass has the other half
    assert {count for (name, *_), count in two_passes.items() if name == "two_sources"} == {4}


@pytest.mark.parametrize("num_sources", [1, 2, 10, 40])
def test_sources_are_evenly_interleaved_over_a_pass(num_sources):
    sizes = {f"source{number}": 20 + 37 * number for number in range(num_sources)}
    order = mixture(dict.fromkeys(sizes, 1.0), sizes)
    taken = Counter()
    for position in range(order.num_samples):
        taken[order[position][0]] += 1
        if position % MIXTURE_BLOCK == MIXTURE_BLOCK - 1:
            for name, size in sizes.items():
                assert abs(taken[name] - (position + 1) * size / order.num_samples) <= num_sources
    assert taken == sizes


def test_mixed_order_is_a_function_of_the_position():
    weights, sizes = {"a": 1.0, "b": 0.3}, {"a": 301, "b": 77}
    order = mixture(weights, sizes)
    sequence = [order[position] for position in range(1000)]
    again = mixture(weights, dict(reversed(sizes.items())))
    assert all(
        again[int(position)] == sequence[position] for position in permutation(1000, "positions")
    )


def test_start_continues_where_an_earlier_stage_stopped():
    """A tenth, and then the other nine tenths: each sample once in both together."""
    sources = {name: SourceOrder((7, 30, 13, 50), 2, 3, name) for name in ("one", "two")}
    first = MixedOrder(sources, {"one": 0.1, "two": 0.2}, seed=3)
    second = MixedOrder(sources, {"one": 0.9, "two": 0.8}, seed=3, starts={"one": 0.1, "two": 0.2})
    taken = [order[position] for order in (first, second) for position in range(order.num_samples)]
    assert len(taken) == len(set(taken)) == 200


def test_mixture_without_sources_is_rejected():
    with pytest.raises(ConfigError, match=r"data\.sources"):
        MixedOrder({}, {}, 0)


def test_samples_of_a_range_equal_those_of_each_position():
    order = mixture({"a": 0.5, "b": 2.0, "c": 1.0}, {"a": 400, "b": 60, "c": 7})
    num = order.num_samples
    for first, end in ((0, num), (num + 3, num + 260), (2 * num + 255, 2 * num + 257), (5, 5)):
        sources, samples = order.samples_at(first, end)
        expected = []
        for position in range(first, end):
            name, shard, sample = order[position]
            source_order = order.sources[order.names.index(name)]
            expected.append((name, sum(source_order.samples_per_shard[:shard]) + sample))
        assert [(order.names[s], n) for s, n in zip(sources, samples, strict=True)] == expected


def test_samples_of_a_range_skip_empty_shards():
    order = source()
    numbers = order.samples_at(3, 3 * order.num_samples)
    starts = [sum(SAMPLES_PER_SHARD[:shard]) for shard in range(len(SAMPLES_PER_SHARD))]
    expected = [starts[shard] + sample for shard, sample in map(order.__getitem__, range(3, 135))]
    assert numbers.tolist()[:132] == expected
