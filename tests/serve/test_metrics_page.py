"""GET /metrics is a page Prometheus reads, and holds all that the engine counts."""

import re

from tests.serve.api import COUNTED, Api
from wideseek.engine.stats import EngineStats, Spread, StepTimes
from wideseek.model.renderer import Renderer
from wideseek.serve.metrics import exposition

LINE = re.compile(r'^wideseek:[a-z_]+(?:\{quantile="0\.\d+"\})? [\d.e+-]+$')


def samples(page: str) -> dict[str, float]:
    """The page's samples, each of which follows its help and type."""
    described = set()
    found = {}
    for line in page.removesuffix("\n").split("\n"):
        if line.startswith("# "):
            described.add(line.split(" ")[2])
            continue
        assert LINE.match(line), line
        name, value = line.rsplit(" ", 1)
        assert re.sub(r"_(sum|count)$|\{.*", "", name) in described, name
        assert name not in found
        found[name] = float(value)
    return found


def test_the_page_is_served_with_the_engines_numbers(renderer: Renderer) -> None:
    response = Api(renderer).get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(response.text)
    assert found["wideseek:num_requests_running"] == COUNTED["running"]
    assert found["wideseek:generation_tokens_total"] == COUNTED["generated_tokens"]
    assert found["wideseek:research_runs"] == 0
    assert found["wideseek:inter_token_latency_seconds_count"] == 0


def test_metrics_need_the_key(renderer: Renderer) -> None:
    """They tell how busy a server is."""
    api = Api(renderer, key="secret")
    assert api.get("/metrics").status_code == 401
    allowed = api.get("/metrics", headers={"authorization": "Bearer secret"})
    assert allowed.status_code == 200


def test_nothing_the_engine_counts_is_missing() -> None:
    """Each number changed by itself changes the page; rates that others give are left out."""
    spread = Spread(count=7, mean=0.5, p50=0.25, p90=1.0, p99=2.0)
    numbers = EngineStats(**COUNTED, times=StepTimes(inter_token=spread)).numbers() | {"runs": 3}
    page = exposition(numbers)
    derived = {"free_pages", "cached_pages", "prefix_hit_rate", "acceptance"}
    for name in numbers.keys() - derived:
        changed = exposition(numbers | {name: numbers[name] + 1})
        # A mean over no durations has no sum to change.
        assert changed != page or name.endswith("/mean"), name
    found = samples(page)
    assert found["wideseek:inter_token_latency_seconds_sum"] == 3.5
    assert found['wideseek:inter_token_latency_seconds{quantile="0.99"}'] == 2
