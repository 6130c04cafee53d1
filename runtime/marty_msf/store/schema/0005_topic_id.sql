-- Which topic a position belongs to: a topic that was deleted and made anew has the same name and offsets, but another id.

-- Kafka's topic id (KIP-516); NULL where none is known: written by an older worker, reported by no broker, or set by a
-- person who decided that next_offset holds for the topic as it is now. The next worker that starts there fills it in.
ALTER TABLE marty.kafka_position ADD COLUMN topic_id uuid;
