-- Why the dead-letter topic did not take a dead letter's copy: it was marked as copied, and nobody was told. Copies that were given
-- up before cannot be told from the others.
ALTER TABLE marty.outbox_held ADD COLUMN copy_error text;
