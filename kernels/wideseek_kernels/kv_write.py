"""Puts the keys and values of new tokens into their pages."""

from torch import Tensor


def kv_write(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """Write token t of k and v into slot slots[t] of the caches, which are mutated.

    k, v [T, KV, D]; k_cache, v_cache [P, KV, page_size, D] of the same dtype; slots [T] int64,
    page * page_size + place in the page, no slot twice.
    """
    page_size = k_cache.shape[2]
    pages, places = slots // page_size, slots % page_size
    k_cache[pages, :, places] = k
    v_cache[pages, :, places] = v
