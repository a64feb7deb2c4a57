BEGIN TRANSACTION;
CREATE TABLE attempt (
  job INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
  attempt INTEGER NOT NULL CHECK (attempt > 0),
  state TEXT NOT NULL,
  reason TEXT,                      -- JSON: [code, text]
  exit_code INTEGER,
  gpus TEXT NOT NULL,               -- JSON: the cards, in the order that the job sees
  reserved_at REAL NOT NULL,
  started_at REAL,
  finished_at REAL, peak_memory INTEGER,
  PRIMARY KEY (job, attempt)
) WITHOUT ROWID;
INSERT INTO "attempt" VALUES(1,1,'succeeded','["ok","ended well"]',0,'["GPU-0"]',200.0,200.25,300.0,1073741824);
INSERT INTO "attempt" VALUES(2,1,'failed','["signal","killed by SIGSEGV (11)"]',139,'[]',200.0,200.25,310.5,NULL);
INSERT INTO "attempt" VALUES(3,1,'running',NULL,NULL,'["GPU-0","GPU-1"]',200.0,200.25,NULL,NULL);
INSERT INTO "attempt" VALUES(4,1,'failed','["exit_code","exited with code 3"]',3,'["GPU-2"]',200.0,200.25,320.0,NULL);
INSERT INTO "attempt" VALUES(4,2,'failed','["exit_code","exited with code 4"]',4,'["GPU-2"]',330.0,330.25,340.0,NULL);
INSERT INTO "attempt" VALUES(8,1,'succeeded','["ok","ended well"]',0,'["GPU-3"]',343.0,343.25,346.5,2147483648);
INSERT INTO "attempt" VALUES(9,1,'failed','["preempted","made way for job 3 (ann)"]',143,'["GPU-3"]',347.0,347.25,401.0,3221225472);
CREATE TABLE booking (
  id INTEGER PRIMARY KEY,
  uid INTEGER NOT NULL,
  starts_at REAL NOT NULL,
  ends_at REAL NOT NULL CHECK (ends_at > starts_at),
  made_at REAL NOT NULL,
  gpus TEXT NOT NULL,               -- JSON: the cards
  detail TEXT NOT NULL              -- JSON: the user's name, and why
);
CREATE TABLE charge (
  uid INTEGER PRIMARY KEY,
  card_seconds REAL NOT NULL,
  at REAL NOT NULL
);
INSERT INTO "charge" VALUES(1000,2.29228709832254907031e+02,340.0);
INSERT INTO "charge" VALUES(1001,5.69981354455602655644e+01,401.0);
CREATE TABLE environment (
  pipeline INTEGER PRIMARY KEY REFERENCES pipeline (id) ON DELETE CASCADE,
  data BLOB NOT NULL                -- JSON, deflated
);
INSERT INTO "environment" VALUES(1,X'7801AB560A700CF150B252D22F2D2ED24FCACC53D2510A76750E720D018A6594166728D50200B3F60A45');
INSERT INTO "environment" VALUES(2,X'7801AB560A700CF150B252D22F2D2ED24FCACC53D2510A76750E720D018A6594166728D50200B3F60A45');
INSERT INTO "environment" VALUES(3,X'7801AB560A700CF150B252D22F2D2ED24FCACC53D2510A76750E720D018A6594166728D50200B3F60A45');
CREATE TABLE event (
  id INTEGER PRIMARY KEY,
  at REAL NOT NULL,
  type TEXT NOT NULL,
  job INTEGER,
  uid INTEGER,
  data TEXT                         -- JSON; null when there is nothing beyond the type
);
INSERT INTO "event" VALUES(1,100.0,'job.queued',1,1000,NULL);
INSERT INTO "event" VALUES(2,100.0,'job.queued',2,1000,NULL);
INSERT INTO "event" VALUES(3,200.0,'job.starting',1,1000,'{"state":"starting","attempt":1,"reason":["launching","being launched"],"gpus":["GPU-0"]}');
INSERT INTO "event" VALUES(4,200.5,'job.running',1,1000,'{"state":"running","attempt":1,"reason":["running","runs"],"gpus":["GPU-0"],"started_at":200.25}');
INSERT INTO "event" VALUES(5,300.0,'job.succeeded',1,1000,'{"state":"succeeded","attempt":1,"reason":["ok","ended well"],"exit_code":0,"started_at":200.25,"finished_at":300.0}');
INSERT INTO "event" VALUES(6,200.0,'job.starting',2,1000,'{"state":"starting","attempt":1,"reason":["launching","being launched"]}');
INSERT INTO "event" VALUES(7,200.5,'job.running',2,1000,'{"state":"running","attempt":1,"reason":["running","runs"],"started_at":200.25}');
INSERT INTO "event" VALUES(8,310.5,'job.failed',2,1000,'{"state":"failed","attempt":1,"reason":["signal","killed by SIGSEGV (11)"],"exit_code":139,"started_at":200.25,"finished_at":310.5}');
INSERT INTO "event" VALUES(9,100.0,'job.queued',3,1000,NULL);
INSERT INTO "event" VALUES(10,100.0,'job.queued',4,1000,NULL);
INSERT INTO "event" VALUES(11,100.0,'job.queued',5,1000,NULL);
INSERT INTO "event" VALUES(12,100.0,'job.queued',6,1000,NULL);
INSERT INTO "event" VALUES(13,100.0,'job.queued',7,1000,NULL);
INSERT INTO "event" VALUES(14,200.0,'job.starting',3,1000,'{"state":"starting","attempt":1,"reason":["launching","being launched"],"gpus":["GPU-0","GPU-1"]}');
INSERT INTO "event" VALUES(15,200.5,'job.running',3,1000,'{"state":"running","attempt":1,"reason":["running","runs"],"gpus":["GPU-0","GPU-1"],"started_at":200.25}');
INSERT INTO "event" VALUES(16,200.0,'job.starting',4,1000,'{"state":"starting","attempt":1,"reason":["launching","being launched"],"gpus":["GPU-2"]}');
INSERT INTO "event" VALUES(17,200.5,'job.running',4,1000,'{"state":"running","attempt":1,"reason":["running","runs"],"gpus":["GPU-2"],"started_at":200.25}');
INSERT INTO "event" VALUES(18,320.0,'job.queued',4,1000,'{"state":"queued","attempt":1,"reason":["retry_delay","attempt 1 failed; another follows"],"exit_code":3}');
INSERT INTO "event" VALUES(19,330.0,'job.starting',4,1000,'{"state":"starting","attempt":2,"reason":["launching","being launched"],"gpus":["GPU-2"]}');
INSERT INTO "event" VALUES(20,330.5,'job.running',4,1000,'{"state":"running","attempt":2,"reason":["running","runs"],"gpus":["GPU-2"],"started_at":330.25}');
INSERT INTO "event" VALUES(21,340.0,'job.failed',4,1000,'{"state":"failed","attempt":2,"reason":["exit_code","exited with code 4"],"exit_code":4,"started_at":330.25,"finished_at":340.0}');
INSERT INTO "event" VALUES(22,341.0,'job.held',5,1000,'{"state":"held","attempt":0,"reason":["held","held by ann"]}');
INSERT INTO "event" VALUES(23,342.0,'job.queued',7,1000,NULL);
INSERT INTO "event" VALUES(24,100.0,'job.queued',8,1001,NULL);
INSERT INTO "event" VALUES(25,100.0,'job.queued',9,1001,NULL);
INSERT INTO "event" VALUES(26,343.0,'job.starting',8,1001,'{"state":"starting","attempt":1,"reason":["launching","being launched"],"gpus":["GPU-3"]}');
INSERT INTO "event" VALUES(27,343.5,'job.running',8,1001,'{"state":"running","attempt":1,"reason":["running","runs"],"gpus":["GPU-3"],"started_at":343.25}');
INSERT INTO "event" VALUES(28,346.5,'job.succeeded',8,1001,'{"state":"succeeded","attempt":1,"reason":["ok","ended well"],"exit_code":0,"started_at":343.25,"finished_at":346.5}');
INSERT INTO "event" VALUES(29,347.0,'job.starting',9,1001,'{"state":"starting","attempt":1,"reason":["launching","being launched"],"gpus":["GPU-3"]}');
INSERT INTO "event" VALUES(30,347.5,'job.running',9,1001,'{"state":"running","attempt":1,"reason":["running","runs"],"gpus":["GPU-3"],"started_at":347.25}');
INSERT INTO "event" VALUES(31,400.0,'job.stopping',9,1001,'{"state":"stopping","attempt":1,"reason":["preempted","made way for job 3 (ann)"],"gpus":["GPU-3"],"started_at":347.25}');
INSERT INTO "event" VALUES(32,401.0,'job.queued',9,1001,'{"state":"queued","attempt":1,"reason":["starting_soon","in the queue"],"exit_code":143}');
INSERT INTO "event" VALUES(33,462.0,'job.idle',3,1000,'{"state":"running","attempt":1,"reason":["running","runs"],"gpus":["GPU-0","GPU-1"],"started_at":200.25,"idle_since":402.0}');
INSERT INTO "event" VALUES(34,1.70000000012345600132e+09,'gpu.drained',NULL,NULL,'{"uuid":"GPU-7"}');
CREATE TABLE experience (
  uid INTEGER NOT NULL,
  kind TEXT NOT NULL,               -- JSON
  count INTEGER NOT NULL,           -- of all attempts that told something, also of those forgotten
  samples TEXT NOT NULL,            -- JSON: [[duration, limit, peak memory, whole], ...], the latest last
  changed_at REAL NOT NULL,
  PRIMARY KEY (uid, kind)
) WITHOUT ROWID;
INSERT INTO "experience" VALUES(1000,'"* 1 cards"',2,'[[99.75,null,1073741824,true],[119.75,null,null,false]]',320.0);
INSERT INTO "experience" VALUES(1000,'"*"',3,'[[99.75,null,1073741824,true],[110.25,null,null,false],[119.75,null,null,false]]',320.0);
INSERT INTO "experience" VALUES(1000,'"true; 1 cards"',2,'[[99.75,null,1073741824,true],[119.75,null,null,false]]',320.0);
INSERT INTO "experience" VALUES(1001,'"* 1 cards"',2,'[[3.25,null,2147483648,true],[53.75,null,3221225472,false]]',401.0);
INSERT INTO "experience" VALUES(1001,'"*"',2,'[[3.25,null,2147483648,true],[53.75,null,3221225472,false]]',401.0);
INSERT INTO "experience" VALUES(1001,'"true; 1 cards"',2,'[[3.25,null,2147483648,true],[53.75,null,3221225472,false]]',401.0);
CREATE TABLE gpu (
  uuid TEXT PRIMARY KEY,
  drained TEXT NOT NULL             -- JSON: why nothing new may start on it
) WITHOUT ROWID;
INSERT INTO "gpu" VALUES('GPU-7','["fan broken","",null]');
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
  spec TEXT NOT NULL, preempted INTEGER NOT NULL DEFAULT 0, idle_since REAL,               -- JSON: the keys that differ from the defaults
  UNIQUE (pipeline, position),
  CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled', 'timed_out', 'skipped')))
);
INSERT INTO "job" VALUES(1,1,0,'prepare',NULL,'succeeded',1,0,0,'["ok","ended well"]',200.25,300.0,NULL,NULL,'{"name":"prepare","command":"true","num_gpus":1}',0,NULL);
INSERT INTO "job" VALUES(2,1,1,'check',NULL,'failed',1,0,139,'["signal","killed by SIGSEGV (11)"]',200.25,310.5,NULL,NULL,'{"name":"check","command":["python","-m","check"],"allow_failure":true}',0,NULL);
INSERT INTO "job" VALUES(3,2,0,'train[lr=0.1]',NULL,'running',1,0,NULL,NULL,200.25,NULL,NULL,NULL,'{"name":"train[lr=0.1]","command":"true","num_gpus":2,"gpu_model":"*H100*","env":{"A":"1"}}',0,402.0);
INSERT INTO "job" VALUES(4,2,1,'train[lr=0.2]',NULL,'failed',2,1,4,'["exit_code","exited with code 4"]',330.25,340.0,NULL,NULL,'{"name":"train[lr=0.2]","command":"true","num_gpus":1,"retries":1}',0,NULL);
INSERT INTO "job" VALUES(5,2,2,'held',NULL,'held',0,0,NULL,'["held","held by ann"]',NULL,NULL,NULL,NULL,'{"name":"held","command":"true"}',0,NULL);
INSERT INTO "job" VALUES(6,2,3,'report',NULL,'queued',0,0,NULL,NULL,NULL,NULL,NULL,NULL,'{"name":"report","command":"true","needs":[{"job":"train","on":"success"}]}',0,NULL);
INSERT INTO "job" VALUES(7,2,4,'renamed','{"name":"last","command":"true","blocking":true,"needs":[{"job":"all","on":"finished"}]}','queued',0,0,NULL,NULL,NULL,NULL,NULL,NULL,'{"name":"renamed","command":"true","blocking":true,"needs":[{"job":"all","on":"finished"}],"priority":-5}',0,NULL);
INSERT INTO "job" VALUES(8,3,0,'shared',NULL,'succeeded',1,0,0,'["ok","ended well"]',343.25,346.5,NULL,NULL,'{"name":"shared","command":"true","num_gpus":1}',0,NULL);
INSERT INTO "job" VALUES(9,3,1,'preempted',NULL,'queued',1,0,143,NULL,NULL,NULL,NULL,NULL,'{"name":"preempted","command":"true","num_gpus":1,"preemptible":true}',1,NULL);
CREATE TABLE meta (
  key TEXT PRIMARY KEY,
  value TEXT                        -- JSON
) WITHOUT ROWID;
INSERT INTO "meta" VALUES('boot','"boot-1"');
INSERT INTO "meta" VALUES('database','"0123456789ab"');
INSERT INTO "meta" VALUES('interrupted','[]');
INSERT INTO "meta" VALUES('made_at','1700000000.123456');
INSERT INTO "meta" VALUES('paused','"maintenance"');
CREATE TABLE notice (
  event INTEGER NOT NULL,
  receiver TEXT NOT NULL,           -- JSON: channel, address, guarded. The address may be a secret
  at REAL NOT NULL,
  detail TEXT NOT NULL,             -- JSON: kind, uid, facts
  PRIMARY KEY (event, receiver)
) WITHOUT ROWID;
INSERT INTO "notice" VALUES(33,'["mail","ann@lab",false]',462.0,'{"kind":"end","uid":1000,"facts":{"job":3}}');
CREATE TABLE pipeline (
  id INTEGER PRIMARY KEY,
  uid INTEGER NOT NULL,
  user TEXT NOT NULL,               -- to look for; the exact name is in detail
  size INTEGER NOT NULL,
  submitted_at REAL NOT NULL,
  finished_at REAL,                 -- when its last job settled
  detail TEXT NOT NULL              -- JSON: name, submitter, cwd, umask, num_jobs, barriers, items, after
);
INSERT INTO "pipeline" VALUES(1,1000,'ann',2,100.0,310.5,'{"name":"first","gid":1000,"groups":[1000],"user":"ann","cwd":"/home/ann/project","umask":18,"num_jobs":10,"barriers":[],"items":[],"after":[]}');
INSERT INTO "pipeline" VALUES(2,1000,'ann',5,100.0,NULL,'{"name":"second","gid":1000,"groups":[1000],"user":"ann","cwd":"/home/ann/project","umask":63,"num_jobs":4,"barriers":[],"items":[],"after":[]}');
INSERT INTO "pipeline" VALUES(3,1001,'bob',2,100.0,NULL,'{"name":"third","gid":1001,"groups":[1001,7],"user":"bob","cwd":"/home/ann/project","umask":18,"num_jobs":10,"barriers":[],"items":[],"after":[]}');
CREATE TABLE reservation (
  gpu TEXT NOT NULL,
  job INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
  exclusive INTEGER NOT NULL CHECK (exclusive IN (0, 1)),
  share INTEGER CHECK (share > 0),  -- bytes of the card's memory that a shared hold promises; null is not known
  PRIMARY KEY (gpu, job)
) WITHOUT ROWID;
INSERT INTO "reservation" VALUES('GPU-0',3,1,NULL);
INSERT INTO "reservation" VALUES('GPU-1',3,1,NULL);
CREATE TABLE submission (
  uid INTEGER NOT NULL,
  key BLOB NOT NULL,                -- SHA-256 of the client's idempotency key
  first_pipeline INTEGER NOT NULL REFERENCES pipeline (id) ON DELETE CASCADE,
  last_pipeline INTEGER NOT NULL,
  PRIMARY KEY (uid, key)
) WITHOUT ROWID;
INSERT INTO "submission" VALUES(1000,X'BE2974546978E3739E6D6DA85C4BE9F334CE32DF2B9FD4B6FF1B55C0D57E9D44',1,1);
CREATE TABLE telemetry (
  job INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  summary TEXT NOT NULL,            -- JSON: as GET /v1/jobs/ID shows it, without the verdict
  PRIMARY KEY (job, attempt),
  FOREIGN KEY (job, attempt) REFERENCES attempt (job, attempt) ON DELETE CASCADE
) WITHOUT ROWID;
INSERT INTO "telemetry" VALUES(1,1,'{"seconds":4.0,"samples":3,"energy":800.0,"gpus":[{"uuid":"GPU-0","index":0,"memory_total":85899345920,"utilization":{"mean":50.0,"peak":50,"seconds":4.0},"memory":{"mean":4294967296.0,"peak":4294967296,"seconds":4.0},"power":{"mean":200.0,"peak":200.0,"seconds":4.0},"temperature":{"mean":60.0,"peak":60,"seconds":4.0},"idle":0.0,"energy":800.0}],"process":{"memory":{"mean":2147483648.0,"peak":2147483648,"seconds":4.0},"cpu":{"mean":1.5,"peak":1.5,"seconds":4.0}}}');
INSERT INTO "telemetry" VALUES(3,1,'{"seconds":4.0,"samples":3,"energy":1600.0,"gpus":[{"uuid":"GPU-0","index":0,"memory_total":85899345920,"utilization":{"mean":50.0,"peak":50,"seconds":4.0},"memory":{"mean":4294967296.0,"peak":4294967296,"seconds":4.0},"power":{"mean":200.0,"peak":200.0,"seconds":4.0},"temperature":{"mean":60.0,"peak":60,"seconds":4.0},"idle":0.0,"energy":800.0},{"uuid":"GPU-1","index":1,"memory_total":85899345920,"utilization":{"mean":50.0,"peak":50,"seconds":4.0},"memory":{"mean":4294967296.0,"peak":4294967296,"seconds":4.0},"power":{"mean":200.0,"peak":200.0,"seconds":4.0},"temperature":{"mean":60.0,"peak":60,"seconds":4.0},"idle":0.0,"energy":800.0}],"process":{"memory":{"mean":2147483648.0,"peak":2147483648,"seconds":4.0},"cpu":{"mean":1.5,"peak":1.5,"seconds":4.0}}}');
CREATE INDEX pipeline_unsettled ON pipeline (id) WHERE finished_at IS NULL;
CREATE INDEX pipeline_finished ON pipeline (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX pipeline_uid ON pipeline (uid, id);
CREATE INDEX submission_pipeline ON submission (first_pipeline);
CREATE INDEX job_settled ON job (state, id) WHERE finished_at IS NOT NULL;
CREATE UNIQUE INDEX one_exclusive_holder ON reservation (gpu) WHERE exclusive = 1;
CREATE INDEX reservation_job ON reservation (job);
CREATE TRIGGER nothing_beside_an_exclusive_holder BEFORE INSERT ON reservation
WHEN EXISTS (SELECT 1 FROM reservation AS other
             WHERE other.gpu = NEW.gpu AND other.job <> NEW.job AND (other.exclusive = 1 OR NEW.exclusive = 1))
BEGIN
  SELECT RAISE(ABORT, 'double booking: the card has an exclusive holder');
END;
CREATE INDEX event_job ON event (job, id) WHERE job IS NOT NULL;
CREATE INDEX booking_end ON booking (ends_at);
COMMIT;
PRAGMA application_id = 1919840883;
PRAGMA user_version = 3;
