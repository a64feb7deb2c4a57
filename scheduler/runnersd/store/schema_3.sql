-- Version 3: what an attempt did with its cards and its processes, and who is to be told of what.

-- Written at its end, and about once a minute before that.
CREATE TABLE telemetry (
  job INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  summary TEXT NOT NULL,            -- JSON: as GET /v1/jobs/ID shows it, without the verdict
  PRIMARY KEY (job, attempt),
  FOREIGN KEY (job, attempt) REFERENCES attempt (job, attempt) ON DELETE CASCADE
) WITHOUT ROWID;

-- What somebody is to be told, until that is done or given up. Written in the commit of the event that it tells of.
CREATE TABLE notice (
  event INTEGER NOT NULL,
  receiver TEXT NOT NULL,           -- JSON: channel, address, guarded. The address may be a secret
  at REAL NOT NULL,
  detail TEXT NOT NULL,             -- JSON: kind, uid, facts
  PRIMARY KEY (event, receiver)
) WITHOUT ROWID;

-- Since when its cards have done nothing, once that is for too long.
ALTER TABLE job ADD COLUMN idle_since REAL;
