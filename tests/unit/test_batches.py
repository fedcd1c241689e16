"""Which changes succeed or fail together."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from gpurack.plan.models.batches import Claim, connected
from gpurack.plan.models.holdings import Holdings

THINGS = st.builds(Holdings, st.frozensets(st.sampled_from("abcdef"), max_size=3))
CLAIMS = st.lists(st.builds(Claim, THINGS, THINGS), max_size=7)


def tied(one: Claim, other: Claim) -> bool:
    return bool(one.after.gpus & other.before.gpus or other.after.gpus & one.before.gpus)


@given(CLAIMS)
def test_every_claim_is_in_one_batch(claims: list[Claim]) -> None:
    assert sorted(number for batch in connected(claims) for number in batch) == list(range(len(claims)))


@given(CLAIMS)
def test_claims_in_different_batches_take_nothing_from_each_other(claims: list[Claim]) -> None:
    for one, other in combinations(connected(claims), 2):
        assert not any(tied(claims[here], claims[there]) for here in one for there in other)


@given(CLAIMS)
def test_batches_are_as_small_as_possible(claims: list[Claim]) -> None:
    for batch in connected(claims):
        reached, new = set(), {batch[0]}
        while new:
            reached |= new
            new = {number for number in batch if any(tied(claims[number], claims[one]) for one in reached)} - reached
        assert reached == set(batch)


@given(CLAIMS, st.randoms())
def test_order_of_claims_does_not_matter(claims: list[Claim], random: st.DrawFn) -> None:
    order = list(range(len(claims)))
    random.shuffle(order)  # type: ignore[attr-defined]
    mixed = connected([claims[number] for number in order])
    assert sorted(sorted(order[number] for number in batch) for batch in mixed) == sorted(connected(claims))
