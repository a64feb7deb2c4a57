-- Version 1. A released script never changes: a change to the schema is the next script (see schema.py).
-- Rows are the truth, events the history. Free text is kept as JSON (ASCII), so that any string a client can send,
-- halves of surrogate pairs and NULs too, comes back as it was. Times are Unix seconds.

CREATE TABLE meta (
  key TEXT PRIMARY KEY,
  value TEXT                        -- JSON
) WITHOUT ROWID;

CREATE TABLE pipeline (
  id INTEGER PRIMARY KEY,
  uid INTEGER NOT NULL,
  user TEXT NOT NULL,               -- to look for; the exact name is in detail
  size INTEGER NOT NULL,
  submitted_at REAL NOT NULL,
  finished_at REAL,                 -- when its last job settled
  detail TEXT NOT NULL              -- JSON: name, submitter, cwd, umask, num_jobs, barriers, items, after
);
CREATE INDEX pipeline_unsettled ON pipeline (id) WHERE finished_at IS NULL;
CREATE INDEX pipeline_finished ON pipeline (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX pipeline_uid ON pipeline (uid, id);

-- The submitter's environment. A secret: read only to launch, never listed.
CREATE TABLE environment (
  pipeline INTEGER PRIMARY KEY REFERENCES pipeline (id) ON DELETE CASCADE,
  data BLOB NOT NULL                -- JSON, deflated
);

-- A submission sent again is answered with what the first made.
CREATE TABLE submission (
  uid INTEGER NOT NULL,
  key BLOB NOT NULL,                -- SHA-256 of the client's idempotency key
  first_pipeline INTEGER NOT NULL REFERENCES pipeline (id) ON DELETE CASCADE,
  last_pipeline INTEGER NOT NULL,
  PRIMARY KEY (uid, key)
) WITHOUT ROWID;
CREATE INDEX submission_pipeline ON submission (first_pipeline);

CREATE TABLE job (
  id INTEGER PRIMARY KEY,
  pipeline INTEGER NOT NULL REFERENCES pipeline (id) ON DELETE CASCADE,
  position INTEGER NOT NULL,        -- in its pipeline's file, from 0
  name TEXT NOT NULL,               -- to look for; the exact name is in spec
  original TEXT,                    -- JSON: the keys it was submitted with, once they are revised; needs use that name
  state TEXT NOT NULL CHECK (state IN ('queued', 'held', 'starting', 'running', 'stopping',
                                       'succeeded', 'failed', 'cancelled', 'timed_out', 'skipped')),
  attempt INTEGER NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0,
  exit_code INTEGER,
  reason TEXT,                      -- JSON: [code, text]
  started_at REAL,
  finished_at REAL,
  not_before REAL,
  stopping_at REAL,
  spec TEXT NOT NULL,               -- JSON: the keys that differ from the defaults
  UNIQUE (pipeline, position),
  CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled', 'timed_out', 'skipped')))
);
CREATE INDEX job_settled ON job (state, id) WHERE finished_at IS NOT NULL;

CREATE TABLE attempt (
  job INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
  attempt INTEGER NOT NULL CHECK (attempt > 0),
  state TEXT NOT NULL,
  reason TEXT,                      -- JSON: [code, text]
  exit_code INTEGER,
  gpus TEXT NOT NULL,               -- JSON: the cards, in the order that the job sees
  reserved_at REAL NOT NULL,
  started_at REAL,
  finished_at REAL,
  PRIMARY KEY (job, attempt)
) WITHOUT ROWID;

-- A live job's hold on a card. Double booking is impossible here, whatever the planner thinks.
CREATE TABLE reservation (
  gpu TEXT NOT NULL,
  job INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
  exclusive INTEGER NOT NULL CHECK (exclusive IN (0, 1)),
  share INTEGER CHECK (share > 0),  -- bytes of the card's memory that a shared hold promises; null is not known
  PRIMARY KEY (gpu, job)
) WITHOUT ROWID;
CREATE UNIQUE INDEX one_exclusive_holder ON reservation (gpu) WHERE exclusive = 1;
CREATE INDEX reservation_job ON reservation (job);
CREATE TRIGGER nothing_beside_an_exclusive_holder BEFORE INSERT ON reservation
WHEN EXISTS (SELECT 1 FROM reservation AS other
             WHERE other.gpu = NEW.gpu AND other.job <> NEW.job AND (other.exclusive = 1 OR NEW.exclusive = 1))
BEGIN
  SELECT RAISE(ABORT, 'double booking: the card has an exclusive holder');
END;

-- Ids are given in the order of the records. A job's event keeps what changes; the rest is in the job's row.
CREATE TABLE event (
  id INTEGER PRIMARY KEY,
  at REAL NOT NULL,
  type TEXT NOT NULL,
  job INTEGER,
  uid INTEGER,
  data TEXT                         -- JSON; null when there is nothing beyond the type
);
CREATE INDEX event_job ON event (job, id) WHERE job IS NOT NULL;

CREATE TABLE gpu (
  uuid TEXT PRIMARY KEY,
  drained TEXT NOT NULL             -- JSON: why nothing new may start on it
) WITHOUT ROWID;
