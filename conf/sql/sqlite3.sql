-- SPDX-License-Identifier: Apache-2.0
-- What `chatstreamctl migrate` and the server's first start create in SQLite. Times are UTC texts that datetime() reads and that sort:
-- 'YYYY-MM-DD HH:MM:SS.mmm', in the audit with microseconds.

-- status: active, completed, error, timeout, cancelled or disconnected.
CREATE TABLE IF NOT EXISTS streaming_sessions (
    id TEXT NOT NULL PRIMARY KEY,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    completed_at TEXT,
    profile TEXT,
    user_key TEXT,
    user_email TEXT,
    connection_id TEXT,
    resource TEXT,
    status TEXT NOT NULL,
    error_code TEXT,
    first_chunk_latency_ms INTEGER,
    duration_ms INTEGER,
    chunk_count INTEGER,
    bytes_sent INTEGER,
    reconnects INTEGER,
    query_hash TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    upstream TEXT,
    node TEXT,
    db_saved BOOLEAN NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS streaming_sessions_created ON streaming_sessions (created_at, status);
CREATE INDEX IF NOT EXISTS streaming_sessions_active ON streaming_sessions (status) WHERE status = 'active';
CREATE INDEX IF NOT EXISTS streaming_sessions_user ON streaming_sessions (user_key);
CREATE INDEX IF NOT EXISTS streaming_sessions_connection ON streaming_sessions (connection_id);

-- One row for what the user wrote ('<session>:user') and one for the answer ('<session>:assistant'). partial: the answer broke off.
CREATE TABLE IF NOT EXISTS chat_messages (
    id TEXT NOT NULL PRIMARY KEY,
    session_id TEXT NOT NULL,
    conversation_id TEXT,
    user_key TEXT,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    created_at TEXT NOT NULL,
    partial BOOLEAN NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS chat_messages_session ON chat_messages (session_id);
CREATE INDEX IF NOT EXISTS chat_messages_conversation ON chat_messages (conversation_id);
CREATE INDEX IF NOT EXISTS chat_messages_user ON chat_messages (user_key);

CREATE TABLE IF NOT EXISTS outline_sessions (
    id TEXT NOT NULL PRIMARY KEY,
    workflow_id TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    step_id TEXT,
    status TEXT NOT NULL,
    outline_prompt TEXT,
    clarification_questions TEXT,
    clarification_answers TEXT,
    agent_state TEXT,
    research_instructions TEXT,
    final_outline TEXT,
    citations TEXT,
    session_metadata TEXT,
    background_response_id TEXT,
    polling_attempts INTEGER NOT NULL DEFAULT 0,
    last_polled_at TEXT,
    is_active BOOLEAN NOT NULL DEFAULT 1,
    error_message TEXT,
    started_at TEXT,
    completed_at TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
);
-- Never two at once for one workflow.
CREATE UNIQUE INDEX IF NOT EXISTS outline_sessions_active ON outline_sessions (workflow_id) WHERE is_active;
CREATE INDEX IF NOT EXISTS outline_sessions_workflow ON outline_sessions (workflow_id, version);

-- hash covers prev_hash, chain, seq, ts, event, stream_id, detail and identity_hash, which covers who it was.
CREATE TABLE IF NOT EXISTS audit_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    ts TEXT NOT NULL,
    chain TEXT NOT NULL,
    seq INTEGER NOT NULL,
    event TEXT NOT NULL,
    stream_id TEXT,
    user_key TEXT,
    user_email TEXT,
    ip TEXT,
    query_hash TEXT,
    detail TEXT,
    salt TEXT,
    identity_hash TEXT NOT NULL,
    prev_hash TEXT NOT NULL,
    hash TEXT NOT NULL,
    UNIQUE (chain, seq)
);
CREATE INDEX IF NOT EXISTS audit_log_ts ON audit_log (ts);
CREATE INDEX IF NOT EXISTS audit_log_event ON audit_log (event);
CREATE INDEX IF NOT EXISTS audit_log_user ON audit_log (user_key);
CREATE INDEX IF NOT EXISTS audit_log_stream ON audit_log (stream_id);

-- head: the last row of a chain. base: the last one that retention has removed.
CREATE TABLE IF NOT EXISTS audit_chains (
    chain TEXT NOT NULL PRIMARY KEY,
    node TEXT,
    started_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    head_seq INTEGER NOT NULL,
    head_hash TEXT NOT NULL,
    base_seq INTEGER NOT NULL DEFAULT 0,
    base_hash TEXT NOT NULL DEFAULT '0000000000000000000000000000000000000000000000000000000000000000'
);

CREATE TABLE IF NOT EXISTS chatstream_schema (version INTEGER NOT NULL PRIMARY KEY);
