from collections import Counter
from itertools import pairwise, permutations
from random import Random

from lit_hour.synthetic.questions.sampling import Fact, draw_choice, draw_orders


def fact(
    answer: str, number: int = 0, amount: float = 0.0, rules_out: tuple[str, ...] = ()
) -> Fact:
    return Fact(f"{answer} {number}?", answer, ((0.0, 1.0),), rules_out, amount)


def test_every_option_is_equally_likely_to_be_correct():
    """Also if many facts share an answer."""
    pool = [
        fact(answer, number)
        for answer, count in {"a": 30, "b": 5, "c": 1, "d": 1, "e": 1}.items()
        for number in range(count)
    ]
    random = Random(0)
    num_offered, num_correct = Counter(), Counter()
    for _ in range(8000):
        drawn, options = draw_choice(pool, random)
        num_offered.update(options)
        num_correct[drawn.answer] += 1
        assert len(set(options)) == 4 and drawn.answer in options
    for answer in "abcde":
        assert abs(num_correct[answer] / num_offered[answer] - 0.25) < 0.02


def test_similar_amounts_and_excluded_answers_are_not_options_of_one_question():
    pool = [fact(str(seconds), amount=seconds) for seconds in (10, 11, 12, 20, 21, 40)]
    for seed in range(50):
        _, options = draw_choice(pool, Random(seed))
        amounts = sorted(map(float, options))
        assert all(high >= 1.25 * low for low, high in pairwise(amounts))
    pool = [fact("a", rules_out=("b",)), fact("b"), fact("c")]
    for seed in range(50):
        _, options = draw_choice(pool, Random(seed))
        assert not {"a", "b"} <= set(options)


def test_pool_with_one_answer_gives_no_choice():
    assert draw_choice([], Random(0)) is None
    assert draw_choice([fact("a", 1), fact("a", 2)], Random(0)) is None


def test_wrong_orders_are_drawn_uniformly():
    counts = Counter(
        order for seed in range(3000) for order in draw_orders("abc", Random(seed))[1:]
    )
    assert len(counts) == 5 and max(counts.values()) < 1.15 * min(counts.values())
    assert draw_orders("abc", Random(0))[0] == "a, then b, then c"
    assert set(draw_orders("ab", Random(0))) == {
        ", then ".join(order) for order in permutations("ab")
    }
