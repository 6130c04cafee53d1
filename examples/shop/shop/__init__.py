"""The example shop: three small HTTP services that keep each other consistent through a Saga, an outbox and a Projection."""
