-- Version 3: what an attempt did with its cards and its processes.

-- Written at its end, and about once a minute before that.
CREATE TABLE telemetry (
  job INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  summary TEXT NOT NULL,            -- JSON: as GET /v1/jobs/ID shows it, without the verdict
  PRIMARY KEY (job, attempt),
  FOREIGN KEY (job, attempt) REFERENCES attempt (job, attempt) ON DELETE CASCADE
) WITHOUT ROWID;
