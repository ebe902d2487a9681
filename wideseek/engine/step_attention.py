"""PagedAttention: what the model sees of the KV caches in one step."""

from torch import Tensor
from wideseek_kernels.kv_write import norm_rotary_kv_write
from wideseek_kernels.paged_attention import AttentionPlan, paged_attention

from wideseek.model.qwen3 import HeadNorms


class PagedAttention:
    """The attention of one step: keys and values go into their slots, then are read by plan."""

    def __init__(
        self, k_cache: Tensor, v_cache: Tensor, slots: Tensor, plan: AttentionPlan
    ) -> None:
        self._k_cache, self._v_cache = k_cache, v_cache
        self._slots, self._plan = slots, plan

    def __call__(
        self,
        layer: int,
        q_THD: Tensor,
        k_TKD: Tensor,
        v_TKD: Tensor,
        norms: HeadNorms,
        cos_TD: Tensor,
        sin_TD: Tensor,
    ) -> Tensor:
        k_cache, v_cache = self._k_cache[layer], self._v_cache[layer]
        q_THD = norm_rotary_kv_write(
            q_THD,
            k_TKD,
            v_TKD,
            norms.q_weight,
            norms.k_weight,
            norms.eps,
            cos_TD,
            sin_TD,
            k_cache,
            v_cache,
            self._slots,
        )
        return paged_attention(q_THD, k_cache, v_cache, self._plan)
