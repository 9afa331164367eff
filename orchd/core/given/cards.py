"""The models of the catalog as the core keeps them: cards, found by id, digest or source.

Replaced whole when the catalog changes (CatalogChanged). What they mean for tasks is models.py's;
where records are kept, orchd/catalog's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import frozen

from orchd.core.given.spec import PoolSpec


@frozen
class ModelCard:
    """One model of the catalog, as far as tasks are concerned."""

    model_id: str
    digest: str
    source: str | None
    """Where it is, in the form that PoolSpec.model_names has; None: nobody said."""
    closes_at: float | None = None
    """From this time on (the clock of `now`) it is Retired; None: Active."""
    untrusted: str | None = None
    """Why its file is not what the catalog says; None: nothing is known against it."""

    def closed(self, now: float) -> bool:
        """Whether it takes no new task."""
        return self.closes_at is not None and self.closes_at <= now


class Models:
    """The cards, by all that they can be found by."""

    def __init__(self, cards: Iterable[ModelCard] = ()) -> None:
        self.cards = {card.model_id: card for card in cards}
        self._by_digest: dict[str, list[ModelCard]] = {}
        self._by_source: dict[str, list[ModelCard]] = {}
        for card in self.cards.values():
            self._by_digest.setdefault(card.digest, []).append(card)
            for name in {card.model_id, card.source or card.model_id}:
                self._by_source.setdefault(name, []).append(card)

    def named(self, model_ref: str) -> list[ModelCard]:
        """Return the cards of an id or a digest; none: it is a reference of another kind."""
        if model_ref in self.cards:
            return [self.cards[model_ref]]
        return self._by_digest.get(model_ref, [])

    def of(self, spec: PoolSpec) -> Iterator[ModelCard]:
        """Yield the cards of what a pool serves: by its digest where one is known."""
        names, digest = what(spec)
        if digest is not None:
            yield from self._by_digest.get(digest, ())
        else:
            for name in names:
                yield from self._by_source.get(name, ())

    def closed(self, spec: PoolSpec, now: float) -> bool:
        """Whether a pool takes no new task because its model is Retired, under every id it has."""
        if not self.cards:
            return False
        cards = list(self.of(spec))
        return bool(cards) and all(card.closed(now) for card in cards)


def what(spec: PoolSpec) -> tuple[tuple[str, ...], str | None]:
    """Return what a pool's model is called, and its digest where somebody said it.

    A pool that was reloaded with another model has that model's reference, and the digest that the
    reload named.
    """
    if spec.model_ref in spec.model_names:
        return spec.model_names, spec.reload_digest or spec.model_digest
    return (spec.model_ref,), spec.reload_digest


def states(models: Models, now: float) -> dict[tuple[str, ...], float]:
    """Return the gauge model_state: 1 for the state that each model is in."""
    return {
        (card.model_id, "Retired" if card.closed(now) else "Active"): 1.0
        for card in models.cards.values()
    }
