-- The whole state of a queuelib file. user_version names this layout; a newer one is refused.
-- Wall times are in seconds since 1970. A queue is "<namespace>.<color>".

CREATE TABLE message (                      -- what is to be done; a row lives until it is acknowledged
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- also the order within a queue; a message given back keeps its place
    queue TEXT NOT NULL,
    due REAL NOT NULL DEFAULT 0,            -- 0: ready
    owner INTEGER,                          -- the taker's row in `owner`; null: free
    redelivered INTEGER NOT NULL DEFAULT 0, -- an earlier owner died holding it
    published REAL NOT NULL,
    bundle BLOB,                            -- null for messages of plain kombu programs
    frame BLOB NOT NULL
);
CREATE INDEX message_ready ON message (queue, id) WHERE owner IS NULL AND due = 0;
CREATE INDEX message_due ON message (due) WHERE due > 0;
CREATE INDEX message_owner ON message (owner) WHERE owner IS NOT NULL;
CREATE INDEX message_bundle ON message (bundle) WHERE bundle IS NOT NULL;

CREATE TABLE owner (                        -- a taker: alive while somebody holds the lock on its file
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    file TEXT NOT NULL
);

CREATE TABLE bundle (                       -- every id that was given out, once
    id BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    due REAL NOT NULL DEFAULT 0,
    published INTEGER NOT NULL DEFAULT 0    -- here: a second publish of the id adds no message
) WITHOUT ROWID;

CREATE TABLE outcome (                      -- how jobs ended, and states on the way
    bundle BLOB NOT NULL,
    position INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    at REAL NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (bundle, position)
) WITHOUT ROWID;

CREATE TABLE span (                         -- successes in a row, kept as one; since layout 2
    bundle BLOB NOT NULL,                   -- a job is in one span, or in one row of outcome, or in neither
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    at REAL NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (bundle, first)
) WITHOUT ROWID;

CREATE TABLE blob (                         -- a piece of something that jobs share; since layout 3
    id INTEGER PRIMARY KEY,                 -- a table of row ids: an index of it does not carry the data
    namespace TEXT NOT NULL,
    name BLOB NOT NULL,
    until REAL NOT NULL,                    -- it stays so long unless it is used again; the sweep deletes it then
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX blob_name ON blob (namespace, name);
CREATE INDEX blob_until ON blob (until);

CREATE TABLE memo (                         -- the newest of a kind of a job that runs; since layout 4
    id INTEGER PRIMARY KEY,                 -- a table of row ids, as that of blobs
    namespace TEXT NOT NULL,
    kind TEXT NOT NULL,
    bundle BLOB NOT NULL,
    position INTEGER NOT NULL,
    until REAL NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX memo_job ON memo (namespace, kind, bundle, position);
CREATE INDEX memo_until ON memo (until);

CREATE TABLE cancel (                       -- marks, read by workers in the order of id
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    bundle BLOB NOT NULL,
    position INTEGER NOT NULL,
    at REAL NOT NULL
);

CREATE TABLE quarantine (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    namespace TEXT NOT NULL,
    color TEXT NOT NULL,
    reason TEXT NOT NULL,
    frame BLOB NOT NULL,
    at REAL NOT NULL
);

CREATE TABLE worker (                       -- who lives, for clients that wonder whether anybody serves them
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    info BLOB NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (namespace, name)
) WITHOUT ROWID;

CREATE TABLE waiter (                       -- whose FIFO gets a byte when something changes
    path TEXT NOT NULL,
    topic TEXT NOT NULL,                    -- a queue, or "outcome"
    PRIMARY KEY (path, topic)
) WITHOUT ROWID;

CREATE TABLE exchange (                     -- what plain kombu programs declared, for all of them
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE queue (
    name TEXT PRIMARY KEY
) WITHOUT ROWID;

CREATE TABLE binding (
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    queue TEXT NOT NULL,
    pattern TEXT NOT NULL,                  -- empty: the exchange has none
    PRIMARY KEY (exchange, routing_key, queue)
) WITHOUT ROWID;
