-- store.sql - every table of the store: the one list of what is kept, and the only DDL.
--
-- Work is absence: a prompt that lacks its rollout, a rollout that lacks its score.  So each output has a UNIQUE key, and an
-- output that arrives twice is one row.
--
-- Tensors are blobs of little-endian elements, 4 bytes each (int32 or float32); a count column beside each blob says how many,
-- and the length is checked against it.  Row ids grow in the order in which rows were stored.
--
-- A text per version of the format, from its marker to the next: a new store runs all of them, an older one those after
-- its own (PRAGMA user_version).  A text that was released is never edited; a change is a new version at the end.

-- version 1
CREATE TABLE prompt (
    id           INTEGER PRIMARY KEY,
    key          TEXT    NOT NULL UNIQUE,  -- digest of tokenizer and text
    tokenizer    TEXT    NOT NULL,         -- digest of the tokenizer
    split        TEXT    NOT NULL,         -- train, eval, ...
    text         TEXT    NOT NULL,
    token_count  INTEGER NOT NULL CHECK (token_count >= 1),
    tokens       BLOB    NOT NULL CHECK (length(tokens) = 4 * token_count)
) STRICT;
CREATE INDEX prompt_split ON prompt (split);

-- A tokenize that began and has not said bye: more prompts of this tokenizer are to come.
CREATE TABLE source (
    tokenizer    TEXT    PRIMARY KEY
) STRICT;

-- What makes a rollout.  The spec is pinned by the first worker that says the name.
CREATE TABLE policy (
    id           INTEGER PRIMARY KEY,
    name         TEXT    NOT NULL UNIQUE,
    spec         TEXT    NOT NULL CHECK (json_valid(spec)),
    tokenizer    TEXT    NOT NULL,         -- of the spec; '': any
    imported     INTEGER NOT NULL CHECK (imported IN (0, 1))  -- 1: its rollouts came from elsewhere
) STRICT;

-- How many samples of each prompt of a split were last asked for.
CREATE TABLE sampling (
    policy       INTEGER NOT NULL REFERENCES policy (id),
    split        TEXT    NOT NULL,
    samples      INTEGER NOT NULL CHECK (samples BETWEEN 1 AND 1048576),
    PRIMARY KEY (policy, split)
) STRICT, WITHOUT ROWID;

CREATE TABLE rollout (
    id           INTEGER PRIMARY KEY,
    policy       INTEGER NOT NULL REFERENCES policy (id),
    prompt       INTEGER NOT NULL REFERENCES prompt (id),
    sample       INTEGER NOT NULL CHECK (sample BETWEEN 0 AND 1048575),
    stopped      INTEGER NOT NULL CHECK (stopped IN (0, 1)),  -- 1: by a stop token, 0: by the length limit
    kl           REAL,                     -- nats, sum over tokens of KL(steered || base); NULL: not measured
    token_count  INTEGER NOT NULL CHECK (token_count >= 1),
    tokens       BLOB    NOT NULL CHECK (length(tokens) = 4 * token_count),
    logprobs     BLOB    CHECK (length(logprobs) = 4 * token_count),  -- nats; NULL: not known
    text         TEXT    NOT NULL,
    UNIQUE (policy, prompt, sample)
) STRICT;
CREATE INDEX rollout_policy ON rollout (policy);
CREATE INDEX rollout_prompt ON rollout (prompt);

CREATE TABLE reward (
    id           INTEGER PRIMARY KEY,
    name         TEXT    NOT NULL UNIQUE,
    spec         TEXT    NOT NULL CHECK (json_valid(spec))
) STRICT;

CREATE TABLE score (
    reward       INTEGER NOT NULL REFERENCES reward (id),
    rollout      INTEGER NOT NULL REFERENCES rollout (id),
    score        REAL    NOT NULL,
    PRIMARY KEY (reward, rollout)
) STRICT, WITHOUT ROWID;
CREATE INDEX score_rollout ON score (rollout);

-- A training run.  target and train are pinned by the first workers that name the run; the plan (schemas/README.md) is
-- fixed by the columns after them, which are NULL until then.
CREATE TABLE run (
    id           INTEGER PRIMARY KEY,
    name         TEXT    NOT NULL UNIQUE,
    target       TEXT    CHECK (target IS NULL OR json_valid(target)),
    train        TEXT    CHECK (train IS NULL OR json_valid(train)),
    policy       INTEGER REFERENCES policy (id),
    reward       INTEGER REFERENCES reward (id),
    samples      INTEGER,                  -- of each prompt; 0: whatever was imported
    prompt_last  INTEGER,                  -- the set is made of prompts up to here
    rollout_last INTEGER,                  -- and, of an imported policy, rollouts up to here
    rollouts     INTEGER,                  -- in the set
    batches      INTEGER,                  -- over all epochs
    CHECK ((policy IS NULL) = (batches IS NULL) AND (reward IS NULL) = (batches IS NULL)
           AND (samples IS NULL) = (batches IS NULL) AND (prompt_last IS NULL) = (batches IS NULL)
           AND (rollout_last IS NULL) = (batches IS NULL) AND (rollouts IS NULL) = (batches IS NULL))
) STRICT;

CREATE TABLE target (
    id           INTEGER PRIMARY KEY,
    run          INTEGER NOT NULL REFERENCES run (id),
    batch        INTEGER NOT NULL CHECK (batch >= 0),
    rollout      INTEGER NOT NULL REFERENCES rollout (id),
    step         INTEGER NOT NULL CHECK (step >= -1),        -- of the snapshot that gave the values
    value_count  INTEGER NOT NULL CHECK (value_count >= 0),  -- states 0 .. R, or none
    value        BLOB    NOT NULL CHECK (length(value) = 4 * value_count),
    target_count INTEGER NOT NULL CHECK (target_count >= 1),
    target       BLOB    NOT NULL CHECK (length(target) = 4 * target_count),
    UNIQUE (run, batch, rollout)
) STRICT;
CREATE INDEX target_rollout ON target (rollout);

-- A checkpoint is one safetensors file, in chunks.
CREATE TABLE checkpoint (
    id           INTEGER PRIMARY KEY,
    run          INTEGER NOT NULL REFERENCES run (id),
    step         INTEGER NOT NULL CHECK (step >= 0),
    kind         TEXT    NOT NULL CHECK (kind IN ('weights', 'full')),
    batch        INTEGER NOT NULL CHECK (batch >= 0),  -- that comes next
    final        INTEGER NOT NULL CHECK (final IN (0, 1)),
    size         INTEGER NOT NULL CHECK (size >= 1),   -- bytes
    sha256       TEXT    NOT NULL CHECK (length(sha256) = 64),
    complete     INTEGER NOT NULL CHECK (complete IN (0, 1)),
    UNIQUE (run, kind, step)
) STRICT;

CREATE TABLE checkpoint_chunk (
    id           INTEGER PRIMARY KEY,
    checkpoint   INTEGER NOT NULL REFERENCES checkpoint (id) ON DELETE CASCADE,
    offset       INTEGER NOT NULL CHECK (offset >= 0),
    size         INTEGER NOT NULL CHECK (size >= 1),
    data         BLOB    NOT NULL CHECK (length(data) = size),
    UNIQUE (checkpoint, offset)
) STRICT;

CREATE TABLE metric (
    id           INTEGER PRIMARY KEY,
    subject      TEXT    NOT NULL,         -- run or policy
    step         INTEGER NOT NULL CHECK (step >= 0),
    numbers      TEXT    NOT NULL CHECK (json_valid(numbers)),  -- object: name to number
    at_s         REAL    NOT NULL,         -- when, seconds since 1970
    UNIQUE (subject, step)
) STRICT;

-- An item that failed or ended its worker too often: skipped until 'store retry' deletes the row.
CREATE TABLE failure (
    id           INTEGER PRIMARY KEY,
    stage        TEXT    NOT NULL CHECK (stage IN ('rollout', 'decode', 'reward', 'value-target')),
    policy       INTEGER REFERENCES policy (id),
    prompt       INTEGER REFERENCES prompt (id),
    sample       INTEGER,
    reward       INTEGER REFERENCES reward (id),
    rollout      INTEGER REFERENCES rollout (id),
    run          INTEGER REFERENCES run (id),
    batch        INTEGER,
    attempts     INTEGER NOT NULL CHECK (attempts >= 1),
    reason       TEXT    NOT NULL,
    at_s         REAL    NOT NULL,         -- when, seconds since 1970
    CHECK (CASE
           WHEN stage IN ('rollout', 'decode') THEN policy IS NOT NULL AND prompt IS NOT NULL AND sample IS NOT NULL
                                                    AND reward IS NULL AND rollout IS NULL AND run IS NULL
           WHEN stage = 'reward' THEN reward IS NOT NULL AND rollout IS NOT NULL AND policy IS NULL AND run IS NULL
           ELSE run IS NOT NULL AND batch IS NOT NULL AND rollout IS NOT NULL AND policy IS NULL AND reward IS NULL
           END)
) STRICT;
CREATE UNIQUE INDEX failure_sample ON failure (policy, prompt, sample) WHERE policy IS NOT NULL;
CREATE UNIQUE INDEX failure_score ON failure (reward, rollout) WHERE reward IS NOT NULL;
CREATE UNIQUE INDEX failure_target ON failure (run, batch, rollout) WHERE run IS NOT NULL;

-- version 2
-- Models that workers may fetch.  Their bytes stay in the files in which they were when the model was shared.
CREATE TABLE model (
    id           INTEGER PRIMARY KEY,
    name         TEXT    NOT NULL UNIQUE,
    digest       TEXT    NOT NULL          -- of the names and digests of its files
) STRICT;

CREATE TABLE model_file (
    model        INTEGER NOT NULL REFERENCES model (id) ON DELETE CASCADE,
    name         TEXT    NOT NULL,
    size         INTEGER NOT NULL CHECK (size >= 0),           -- bytes
    sha256       TEXT    NOT NULL CHECK (length(sha256) = 64),
    path         TEXT    NOT NULL,         -- absolute, on the store's machine
    changed_ns   INTEGER NOT NULL,         -- its mtime then, since 1970: a file that was written later is not given out
    PRIMARY KEY (model, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX model_file_sha256 ON model_file (sha256);

-- version 3
-- Counts, so that a store of any size knows at once how much is missing and where the first of it is.  The triggers below keep them
-- in the transaction of the rows that they count.  A block is 4096 row ids that follow each other.
CREATE TABLE prompt_count (
    split        TEXT    NOT NULL,
    block        INTEGER NOT NULL,         -- of prompts
    tokenizer    TEXT    NOT NULL,
    prompts      INTEGER NOT NULL,
    PRIMARY KEY (split, block, tokenizer)
) STRICT, WITHOUT ROWID;

-- Where a policy lacks samples.
CREATE TABLE sample_count (
    policy       INTEGER NOT NULL,
    split        TEXT    NOT NULL,
    block        INTEGER NOT NULL,         -- of prompts
    sample       INTEGER NOT NULL,
    rollouts     INTEGER NOT NULL,
    failed       INTEGER NOT NULL,
    PRIMARY KEY (policy, split, block, sample)
) STRICT, WITHOUT ROWID;

-- Where a reward lacks scores.
CREATE TABLE rollout_count (
    block        INTEGER NOT NULL,         -- of rollouts
    policy       INTEGER NOT NULL,
    split        TEXT    NOT NULL,
    rollouts     INTEGER NOT NULL,
    PRIMARY KEY (block, policy, split)
) STRICT, WITHOUT ROWID;

CREATE TABLE score_count (
    reward       INTEGER NOT NULL,
    block        INTEGER NOT NULL,         -- of rollouts
    policy       INTEGER NOT NULL,
    split        TEXT    NOT NULL,
    scores       INTEGER NOT NULL,
    failed       INTEGER NOT NULL,
    PRIMARY KEY (reward, block, policy, split)
) STRICT, WITHOUT ROWID;

CREATE TABLE target_count (
    run          INTEGER PRIMARY KEY,
    targets      INTEGER NOT NULL,
    failed       INTEGER NOT NULL
) STRICT;

-- An item is done or given up, never both.
DELETE FROM failure WHERE EXISTS (SELECT 1 FROM rollout r WHERE r.policy = failure.policy AND r.prompt = failure.prompt AND r.sample = failure.sample)
                       OR EXISTS (SELECT 1 FROM score s WHERE s.reward = failure.reward AND s.rollout = failure.rollout)
                       OR EXISTS (SELECT 1 FROM target t WHERE t.run = failure.run AND t.batch = failure.batch AND t.rollout = failure.rollout);

CREATE TRIGGER failure_of_what_is_done BEFORE INSERT ON failure
WHEN EXISTS (SELECT 1 FROM rollout WHERE policy = NEW.policy AND prompt = NEW.prompt AND sample = NEW.sample)
  OR EXISTS (SELECT 1 FROM score WHERE reward = NEW.reward AND rollout = NEW.rollout)
  OR EXISTS (SELECT 1 FROM target WHERE run = NEW.run AND batch = NEW.batch AND rollout = NEW.rollout)
BEGIN
    SELECT RAISE(IGNORE);
END;

INSERT INTO prompt_count SELECT split, id / 4096, tokenizer, count(*) FROM prompt GROUP BY 1, 2, 3;

INSERT INTO sample_count SELECT policy, split, prompt / 4096, sample, sum(done), sum(NOT done)
    FROM (SELECT policy, prompt, sample, 1 AS done FROM rollout
          UNION ALL SELECT policy, prompt, sample, 0 FROM failure WHERE policy IS NOT NULL) o JOIN prompt p ON p.id = o.prompt GROUP BY 1, 2, 3, 4;

INSERT INTO rollout_count SELECT r.id / 4096, policy, split, count(*) FROM rollout r JOIN prompt p ON p.id = r.prompt GROUP BY 1, 2, 3;

INSERT INTO score_count SELECT reward, rollout / 4096, policy, split, sum(done), sum(NOT done)
    FROM (SELECT reward, rollout, 1 AS done FROM score UNION ALL SELECT reward, rollout, 0 FROM failure WHERE reward IS NOT NULL) o
    JOIN rollout r ON r.id = o.rollout JOIN prompt p ON p.id = r.prompt GROUP BY 1, 2, 3, 4;

INSERT INTO target_count SELECT run, sum(done), sum(NOT done)
    FROM (SELECT run, 1 AS done FROM target UNION ALL SELECT run, 0 FROM failure WHERE run IS NOT NULL) GROUP BY 1;

CREATE TRIGGER prompt_counted AFTER INSERT ON prompt BEGIN
    INSERT INTO prompt_count VALUES (NEW.split, NEW.id / 4096, NEW.tokenizer, 1) ON CONFLICT DO UPDATE SET prompts = prompts + 1;
END;

CREATE TRIGGER rollout_counted AFTER INSERT ON rollout BEGIN
    DELETE FROM failure WHERE policy = NEW.policy AND prompt = NEW.prompt AND sample = NEW.sample;
    INSERT INTO sample_count SELECT NEW.policy, split, NEW.prompt / 4096, NEW.sample, 1, 0 FROM prompt WHERE id = NEW.prompt
        ON CONFLICT DO UPDATE SET rollouts = rollouts + 1;
    INSERT INTO rollout_count SELECT NEW.id / 4096, NEW.policy, split, 1 FROM prompt WHERE id = NEW.prompt
        ON CONFLICT DO UPDATE SET rollouts = rollouts + 1;
END;

CREATE TRIGGER score_counted AFTER INSERT ON score BEGIN
    DELETE FROM failure WHERE reward = NEW.reward AND rollout = NEW.rollout;
    INSERT INTO score_count SELECT NEW.reward, NEW.rollout / 4096, r.policy, p.split, 1, 0 FROM rollout r JOIN prompt p ON p.id = r.prompt
        WHERE r.id = NEW.rollout ON CONFLICT DO UPDATE SET scores = scores + 1;
END;

CREATE TRIGGER target_counted AFTER INSERT ON target BEGIN
    DELETE FROM failure WHERE run = NEW.run AND batch = NEW.batch AND rollout = NEW.rollout;
    INSERT INTO target_count VALUES (NEW.run, 1, 0) ON CONFLICT DO UPDATE SET targets = targets + 1;
END;

CREATE TRIGGER failure_counted AFTER INSERT ON failure BEGIN
    INSERT INTO sample_count SELECT NEW.policy, split, NEW.prompt / 4096, NEW.sample, 0, 1 FROM prompt
        WHERE NEW.policy IS NOT NULL AND id = NEW.prompt ON CONFLICT DO UPDATE SET failed = failed + 1;
    INSERT INTO score_count SELECT NEW.reward, NEW.rollout / 4096, r.policy, p.split, 0, 1 FROM rollout r JOIN prompt p ON p.id = r.prompt
        WHERE NEW.reward IS NOT NULL AND r.id = NEW.rollout ON CONFLICT DO UPDATE SET failed = failed + 1;
    INSERT INTO target_count SELECT NEW.run, 0, 1 WHERE NEW.run IS NOT NULL ON CONFLICT DO UPDATE SET failed = failed + 1;
END;

CREATE TRIGGER failure_forgotten AFTER DELETE ON failure BEGIN
    UPDATE sample_count SET failed = failed - 1 WHERE policy = OLD.policy AND block = OLD.prompt / 4096 AND sample = OLD.sample
        AND split = (SELECT split FROM prompt WHERE id = OLD.prompt);
    UPDATE score_count SET failed = failed - 1 WHERE reward = OLD.reward AND block = OLD.rollout / 4096
        AND (policy, split) = (SELECT r.policy, p.split FROM rollout r JOIN prompt p ON p.id = r.prompt WHERE r.id = OLD.rollout);
    UPDATE target_count SET failed = failed - 1 WHERE run = OLD.run;
END;

-- What the workers of a policy, reward, run or tokenizer did with their time, as they reported it.
CREATE TABLE effort (
    stage        TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    compute_ms   INTEGER NOT NULL,         -- model arithmetic, or scoring or tokenizing
    wait_ms      INTEGER NOT NULL,         -- for items
    wire_ms      INTEGER NOT NULL,         -- frames, the socket, commits
    other_ms     INTEGER NOT NULL,
    PRIMARY KEY (stage, name)
) STRICT, WITHOUT ROWID;
