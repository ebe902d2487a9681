"""Who answers: a model, or one that leads and another that works for it."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from wideseek.backends import Model, ModelPlace, open_model
from wideseek_eval.throttle import ThrottledModel


@dataclass(frozen=True, slots=True)
class Team:
    """Who leads, or works alone, and who works for the lead."""

    lead: Model
    sub: Model

    @property
    def name(self) -> str:
        """Of the model, or of both."""
        same = self.sub is self.lead
        return self.lead.name if same else f"{self.lead.name}+{self.sub.name}"


async def open_team(
    lead: ModelPlace, sub: ModelPlace, opened: AsyncExitStack, connections: int | None = None
) -> Team:
    """The models at two places, one for both if they are the same, until `opened` is closed.

    connections: replies of a model at once. ValueError for a model that cannot be had.
    """

    async def open_place(place: ModelPlace) -> Model:
        model = await open_model(place.model, place.base_url)
        opened.push_async_callback(model.close)
        return model if connections is None else ThrottledModel(model, connections)

    leader = await open_place(lead)
    return Team(leader, leader if sub == lead else await open_place(sub))
