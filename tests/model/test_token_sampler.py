"""Sampling of tokens: penalties, top-k and top-p against the plain formula, seeds, constraints."""

import torch
from torch import Tensor

from lit_hour.config.sampling_params import SamplingParams
from lit_hour.model.token_sampler import TokenSampler

LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0, 9.0])  # the last row belongs to no token
NUM_TOKENS = 5
CPU = torch.device("cpu")


def sample(params: SamplingParams, num_steps: int = 1, num_rows: int = 1) -> Tensor:
    """Return the tokens of several steps with the same logits: `(rows, steps)`."""
    samplers = [TokenSampler(params, NUM_TOKENS, CPU, index) for index in range(num_rows)]
    return torch.tensor([[sampler(LOGITS) for _ in range(num_steps)] for sampler in samplers])


def shares(params: SamplingParams, num_steps: int = 1500) -> Tensor:
    """Return how often each token is sampled: `(tokens,)`."""
    tokens = sample(params, num_steps)
    return torch.bincount(tokens[0], minlength=NUM_TOKENS) / num_steps


def test_greedy_decoding_takes_the_most_likely_token_of_the_tokenizer() -> None:
    for temperature in (0.0, 1e-300):
        assert sample(SamplingParams(temperature=temperature), 3).tolist() == [[0, 0, 0]]


def test_penalties_lower_the_logits_of_generated_tokens() -> None:
    params = SamplingParams(frequency_penalty=0.3, presence_penalty=0.4)
    expected, counts = [], torch.zeros(NUM_TOKENS)
    for _ in range(12):
        scores = LOGITS[:NUM_TOKENS] - 0.3 * counts - 0.4 * (counts > 0)
        expected.append(int(scores.argmax()))
        counts[expected[-1]] += 1
    assert sample(params, 12).tolist() == [expected]
    assert len(set(expected)) > 2


def test_samples_have_the_distribution_of_the_formula() -> None:
    probabilities = (LOGITS[:NUM_TOKENS] / 0.7).softmax(dim=0)
    found = shares(SamplingParams(temperature=0.7, seed=1))
    assert (found - probabilities).abs().max() < 0.05


def test_top_k_and_top_p_leave_the_most_likely_tokens() -> None:
    assert (shares(SamplingParams(temperature=2.0, top_k=2, seed=2)) > 0).tolist() == [
        *[True] * 2,
        *[False] * 3,
    ]
    probabilities = LOGITS[:NUM_TOKENS].softmax(dim=0)  # 0.48, 0.29, 0.18, ...
    assert probabilities[:2].sum() < 0.8 < probabilities[:3].sum()
    found = shares(SamplingParams(temperature=1.0, top_p=0.8, seed=3))
    kept = probabilities[:3] / probabilities[:3].sum()
    assert (found[:3] - kept).abs().max() < 0.05 and found[3:].sum() == 0


def test_a_seed_repeats_the_tokens_and_rows_differ() -> None:
    params = SamplingParams(temperature=1.0, seed=-5, num_choices=3)
    first, second = (sample(params, 20, 3).tolist() for _ in range(2))
    assert first == second
    assert len({tuple(row) for row in first}) == 3
    assert first[0] == sample(SamplingParams(temperature=1.0, seed=-5), 20).tolist()[0]
    assert first != sample(SamplingParams(temperature=1.0, seed=6, num_choices=3), 20, 3).tolist()


def test_logprobs_are_those_of_the_model_before_any_processor() -> None:
    params = SamplingParams(temperature=0.5, presence_penalty=2.0, num_top_logprobs=2, seed=0)
    sampler = TokenSampler(params, NUM_TOKENS, CPU)
    for _ in range(4):
        token = sampler(LOGITS)
        expected = LOGITS.log_softmax(dim=0)
        assert sampler.logprob is not None
        logprob, top = sampler.logprob
        assert logprob == expected[token]
        assert top == [(5, float(expected[5])), (0, float(expected[0]))]


def test_a_constraint_leaves_the_tokens_that_it_allows() -> None:
    def alternate(ids: list[int]) -> Tensor:
        return torch.tensor([False, False, False, len(ids) % 2 == 0, len(ids) % 2 == 1])

    params = SamplingParams(temperature=2.0)
    sampler = TokenSampler(params, NUM_TOKENS, CPU, constraint=alternate)
    assert [sampler(LOGITS) for _ in range(4)] == [3, 4, 3, 4]
