"""Block keys and the longest cached prefix."""

import pytest

from quire.control.blocks import BlockPool
from quire.control.prefix import PrefixCache, block_key, root_key
from quire.control.request import Request
from quire.control.stop import StopRules
from quire.control.window import NO_BLOCK


def request(prompt: list[int], **fields: object) -> Request:
    return Request("a", prompt, StopRules(8), **fields)


def filled(cache: PrefixCache, pool: BlockPool, prompt: list[int], **fields: object) -> Request:
    """A request whose prompt is computed and published, in blocks of two."""
    each = request(prompt, **fields)
    each.block_table = pool.take(-(-len(prompt) // 2))
    cache.publish(each, 0, len(prompt))
    return each


@pytest.fixture
def pool() -> BlockPool:
    return BlockPool(16)


@pytest.fixture
def cache(pool: BlockPool) -> PrefixCache:
    return PrefixCache(pool, 2)


def test_a_key_names_parent_tokens_and_root():
    root = root_key(b"model", b"salt")
    keys = {
        block_key(root, [1, 2]),
        block_key(root, [2, 1]),
        block_key(block_key(root, [1, 2]), [1, 2]),
        block_key(root_key(b"model", b"other"), [1, 2]),
        block_key(root_key(b"other", b"salt"), [1, 2]),
        block_key(root_key(b"models", b"alt"), [1, 2]),
    }
    assert len(keys) == 6
    assert block_key(root, (1, 2)) == block_key(root, [1, 2])


def test_the_longest_whole_block_prefix_is_found(cache, pool):
    table = filled(cache, pool, [1, 2, 3, 4, 5]).block_table
    assert cache.find(request([1, 2, 3, 4, 5, 6])) == table[:2]
    assert cache.find(request([1, 2, 3, 9, 5, 6])) == table[:1]
    assert cache.find(request([9, 2, 3, 4])) == []


def test_the_last_known_token_is_always_computed(cache, pool):
    table = filled(cache, pool, [1, 2, 3, 4]).block_table
    assert cache.find(request([1, 2, 3, 4])) == table[:1]
    assert cache.find(request([1, 2])) == []
    assert cache.find(request([1, 2, 3])) == table[:1]


def test_a_block_is_published_when_its_last_token_is_computed(cache, pool):
    each = request([1, 2, 3, 4])
    each.block_table = pool.take(2)
    cache.publish(each, 0, 1)
    assert cache.find(request([1, 2, 3])) == []
    cache.publish(each, 1, 3)
    assert cache.find(request([1, 2, 3, 4, 5])) == each.block_table[:1]


def test_salt_and_fingerprint_set_content_apart(cache, pool):
    filled(cache, pool, [1, 2, 3], cache_salt=b"a")
    assert cache.find(request([1, 2, 3], cache_salt=b"a"))
    assert not cache.find(request([1, 2, 3], cache_salt=b"b"))
    assert not PrefixCache(pool, 2, b"int8").find(request([1, 2, 3], cache_salt=b"a"))


def test_contents_set_equal_tokens_apart(cache, pool):
    """Tokens 2 to 5 are an image's, which are all alike."""
    prompt = [1, 2, 9, 9, 9, 9, 3, 4, 5]
    table = filled(cache, pool, prompt, contents=((2, 6, b"cat"),)).block_table
    assert cache.find(request(prompt, contents=((2, 6, b"cat"),))) == table[:4]
    assert cache.find(request(prompt, contents=((2, 6, b"dog"),))) == table[:1]
    assert cache.find(request(prompt)) == table[:1]
    assert cache.find(request(prompt, contents=((3, 6, b"cat"),))) == table[:1]
    assert cache.find(request(prompt, contents=((6, 8, b"cat"),))) == table[:1]


def test_a_request_may_decline_to_read_but_still_publishes(cache, pool):
    table = filled(cache, pool, [1, 2, 3], use_prefix_cache=False).block_table
    assert cache.find(request([1, 2, 3])) == table[:1]
    assert cache.find(request([1, 2, 3], use_prefix_cache=False)) == []


def test_a_disabled_cache_finds_and_publishes_nothing(pool):
    off = PrefixCache(pool, 2, enabled=False)
    filled(off, pool, [1, 2, 3])
    assert off.find(request([1, 2, 3])) == []
    assert PrefixCache(pool, 2).find(request([1, 2, 3])) == []


def test_keys_are_hashed_once_and_only_as_far_as_needed(cache, pool, monkeypatch):
    hashed = []
    original = block_key
    monkeypatch.setattr(
        "quire.control.prefix.block_key",
        lambda parent, tokens, _: hashed.append(tuple(tokens)) or original(parent, tokens),
    )
    each = request([1, 2, 3, 4, 5, 6, 7])
    cache.find(each)
    cache.find(each)
    assert hashed == [(1, 2)]
    each.block_table = pool.take(4)
    cache.publish(each, 0, 7)
    assert hashed == [(1, 2), (3, 4), (5, 6)]


def test_behind_a_window_only_the_window_must_be_there(pool):
    """Blocks of two, a window of three: the token at position 6 sees 4, 5 and itself."""
    cache = PrefixCache(pool, 2, window=3)
    prompt = [1, 2, 3, 4, 5, 6, 7]
    table = filled(cache, pool, prompt).block_table
    assert cache.find(request(prompt)) == [NO_BLOCK, NO_BLOCK, table[2]]
    pool.release(table)
    taken = pool.take(pool.num_free - 3)  # the empty ones: all that was computed is still there
    assert cache.find(request(prompt)) == [NO_BLOCK, NO_BLOCK, table[2]]
    pool.hold([table[0], table[2]])
    pool.take(1)  # the second block is forgotten
    assert cache.find(request(prompt)) == [NO_BLOCK, NO_BLOCK, table[2]]
    assert cache.find(request(prompt[:5])) == [table[0]]  # position 4 would need it
    assert taken


def test_a_window_wider_than_the_prompt_needs_all_of_it(pool):
    cache = PrefixCache(pool, 2, window=8)
    table = filled(cache, pool, [1, 2, 3, 4, 5]).block_table
    assert cache.find(request([1, 2, 3, 4, 5])) == table[:2]
    assert cache.find(request([1, 2, 9, 4, 5])) == table[:1]


class Shelf(dict):
    """A block store that keeps everything."""

    outlives_process = True

    has = dict.__contains__
    save = dict.__setitem__

    def touch(self, keys):
        """Nothing to note."""


def test_what_is_published_is_stored_and_found_behind_what_is_here(pool):
    shelf = Shelf()
    keys = filled(PrefixCache(pool, 2, store=shelf), pool, [1, 2, 3, 4, 5, 6, 7]).block_keys
    assert list(shelf) == keys
    cache = PrefixCache(BlockPool(4), 2, store=shelf)
    assert cache.find_stored(request([1, 2, 3, 4, 5, 6]), 0) == keys[:2]
    cache.find(later := request([1, 2, 3, 4, 5, 6, 7]))
    assert cache.find_stored(later, 1) == keys[1:]
    del shelf[keys[1]]
    assert cache.find_stored(request([1, 2, 3, 4, 5, 6, 7]), 0) == keys[:1]


def test_what_is_salted_or_not_cached_is_neither_stored_nor_found(pool):
    shelf = Shelf()
    filled(PrefixCache(pool, 2, store=shelf), pool, [1, 2, 3], cache_salt=b"tenant")
    filled(PrefixCache(pool, 2, store=shelf, enabled=False), pool, [1, 2, 3])
    assert not shelf
    cache = PrefixCache(pool, 2, store=shelf)
    filled(cache, pool, [1, 2, 3])
    assert cache.find_stored(request([1, 2, 3]), 0) == list(shelf) != []
    assert cache.find_stored(request([1, 2, 3], use_prefix_cache=False), 0) == []
    assert PrefixCache(pool, 2, store=shelf, enabled=False).find_stored(request([1, 2, 3]), 0) == []
