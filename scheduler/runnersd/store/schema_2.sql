-- Version 2: what earlier attempts teach, advance bookings, and who else was on a job's cards.

-- The latest attempts of a kind of job, by its user: what durations and memory are predicted from.
CREATE TABLE experience (
  uid INTEGER NOT NULL,
  kind TEXT NOT NULL,               -- JSON
  count INTEGER NOT NULL,           -- of all attempts that told something, also of those forgotten
  samples TEXT NOT NULL,            -- JSON: [[duration, limit, peak memory, whole], ...], the latest last
  changed_at REAL NOT NULL,
  PRIMARY KEY (uid, kind)
) WITHOUT ROWID;

-- What a user's use of the cards amounts to: card-seconds, decayed to a time.
CREATE TABLE charge (
  uid INTEGER PRIMARY KEY,
  card_seconds REAL NOT NULL,
  at REAL NOT NULL
);

-- Cards that somebody has for themselves for some time, whatever the queue.
CREATE TABLE booking (
  id INTEGER PRIMARY KEY,
  uid INTEGER NOT NULL,
  starts_at REAL NOT NULL,
  ends_at REAL NOT NULL CHECK (ends_at > starts_at),
  made_at REAL NOT NULL,
  gpus TEXT NOT NULL,               -- JSON: the cards
  detail TEXT NOT NULL              -- JSON: the user's name, and why
);
CREATE INDEX booking_end ON booking (ends_at);

-- Processes of others that were seen on a card while an attempt of ours held it.
CREATE TABLE intrusion (
  job INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  gpu TEXT NOT NULL,
  pid INTEGER NOT NULL,
  since REAL NOT NULL,
  until REAL NOT NULL,              -- when it was last seen
  detail TEXT NOT NULL,             -- JSON: its user, program and memory
  PRIMARY KEY (job, attempt, gpu, pid, since),
  FOREIGN KEY (job, attempt) REFERENCES attempt (job, attempt) ON DELETE CASCADE
) WITHOUT ROWID;

ALTER TABLE attempt ADD COLUMN peak_memory INTEGER;
ALTER TABLE job ADD COLUMN preempted INTEGER NOT NULL DEFAULT 0;
