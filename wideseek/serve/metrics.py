"""GET /metrics: what the engine and the server count, as Prometheus reads it (text format 0.0.4)."""

from collections.abc import Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_COUNTS = {
    "running": ("num_requests_running", "gauge", "Sequences the engine runs."),
    "waiting": ("num_requests_waiting", "gauge", "Sequences that wait for a place."),
    "kv_use": ("kv_cache_usage", "gauge", "Share of the KV pages that hold something."),
    "total_pages": ("kv_cache_pages", "gauge", "KV pages in all."),
    "weight_version": ("weight_version", "gauge", "How often the weights were replaced."),
    "steps": ("engine_steps_total", "counter", "Steps of the engine."),
    "preemptions": ("num_preemptions_total", "counter", "Sequences sent back for want of pages."),
    "prompt_tokens": ("prompt_tokens_total", "counter", "Tokens of prompts."),
    "generated_tokens": ("generation_tokens_total", "counter", "Sampled tokens."),
    "prefix_hit_tokens": ("prefix_cache_hit_tokens_total", "counter", "Prefill found, in tokens."),
    "prefill_tokens_computed": ("prefill_tokens_total", "counter", "Prefill computed, in tokens."),
    "draft_tokens": ("draft_tokens_total", "counter", "Tokens guessed from the context."),
    "accepted_tokens": ("accepted_tokens_total", "counter", "Guesses that came true."),
    "runs": ("research_runs", "gauge", "Research runs under way."),
}
_DURATIONS = {
    "first_token": ("time_to_first_token_seconds", "From submission to the first token."),
    "inter_token": ("inter_token_latency_seconds", "From one token to the next."),
    "schedule": ("step_schedule_seconds", "Choosing what a step runs."),
    "prepare": ("step_prepare_seconds", "Inputs of a step and the plan of its attention."),
    "model": ("step_model_seconds", "The network of a step; on a GPU its launch."),
    "sample": (
        "step_sample_seconds",
        "Sampling of a step; on a GPU with the wait for the network.",
    ),
    "commit": ("step_commit_seconds", "Handing out a step's tokens."),
}


def exposition(numbers: Mapping[str, float]) -> str:
    """`EngineStats.numbers()` with the server's own counts as one page; quantiles are of the last durations.

    KeyError where one of the numbers is missing.
    """
    lines = []
    for name, (shown, kind, about) in _COUNTS.items():
        full = f"wideseek:{shown}"
        lines += [f"# HELP {full} {about}", f"# TYPE {full} {kind}", f"{full} {numbers[name]:.10g}"]
    for name, (shown, about) in _DURATIONS.items():
        full, count = f"wideseek:{shown}", numbers[f"{name}/count"]
        lines += [f"# HELP {full} {about}", f"# TYPE {full} summary"]
        for quantile in ("p50", "p90", "p99"):
            share = int(quantile[1:]) / 100
            lines.append(f'{full}{{quantile="{share}"}} {numbers[f"{name}/{quantile}"]:.10g}')
        lines += [
            f"{full}_sum {numbers[f'{name}/mean'] * count:.10g}",
            f"{full}_count {count:.10g}",
        ]
    return "\n".join((*lines, ""))
