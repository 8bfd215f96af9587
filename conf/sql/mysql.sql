-- SPDX-License-Identifier: Apache-2.0
-- What `chatstreamctl migrate` and the server's first start create in MariaDB and MySQL. Times are UTC. Texts are compared byte by byte.

-- status: active, completed, error, timeout, cancelled or disconnected.
CREATE TABLE IF NOT EXISTS streaming_sessions (
    id VARCHAR(255) NOT NULL PRIMARY KEY,
    created_at DATETIME(6) NOT NULL,
    updated_at DATETIME(6) NOT NULL,
    completed_at DATETIME(6),
    profile VARCHAR(255),
    user_key VARCHAR(255),
    user_email VARCHAR(320),
    connection_id VARCHAR(255),
    resource TEXT,
    status VARCHAR(32) NOT NULL,
    error_code VARCHAR(255),
    first_chunk_latency_ms BIGINT,
    duration_ms BIGINT,
    chunk_count BIGINT,
    bytes_sent BIGINT,
    reconnects BIGINT,
    query_hash VARCHAR(64),
    prompt_tokens BIGINT,
    completion_tokens BIGINT,
    upstream TEXT,
    node VARCHAR(255),
    db_saved BOOLEAN NOT NULL DEFAULT 0,
    KEY streaming_sessions_created (created_at, status),
    KEY streaming_sessions_active (status),
    KEY streaming_sessions_user (user_key),
    KEY streaming_sessions_connection (connection_id)
)
ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- One row for what the user wrote ('<session>:user') and one for the answer ('<session>:assistant'). partial: the answer broke off.
CREATE TABLE IF NOT EXISTS chat_messages (
    id VARCHAR(255) NOT NULL PRIMARY KEY,
    session_id VARCHAR(255) NOT NULL,
    conversation_id VARCHAR(255),
    user_key VARCHAR(255),
    role VARCHAR(32) NOT NULL,
    content LONGTEXT NOT NULL,
    created_at DATETIME(6) NOT NULL,
    partial BOOLEAN NOT NULL DEFAULT 0,
    KEY chat_messages_session (session_id),
    KEY chat_messages_conversation (conversation_id),
    KEY chat_messages_user (user_key)
)
ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS outline_sessions (
    id VARCHAR(255) NOT NULL PRIMARY KEY,
    workflow_id VARCHAR(255) NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    step_id VARCHAR(255),
    status VARCHAR(32) NOT NULL,
    outline_prompt LONGTEXT,
    clarification_questions LONGTEXT,
    clarification_answers LONGTEXT,
    agent_state LONGTEXT,
    research_instructions LONGTEXT,
    final_outline LONGTEXT,
    citations LONGTEXT,
    session_metadata LONGTEXT,
    background_response_id VARCHAR(255),
    polling_attempts INTEGER NOT NULL DEFAULT 0,
    last_polled_at DATETIME(6),
    is_active BOOLEAN NOT NULL DEFAULT 1,
    error_message TEXT,
    started_at DATETIME(6),
    completed_at DATETIME(6),
    created_at DATETIME(6) NOT NULL,
    updated_at DATETIME(6) NOT NULL,
    -- Never two at once for one workflow: NULL is not equal to NULL.
    active_workflow_id VARCHAR(255) GENERATED ALWAYS AS (IF(is_active, workflow_id, NULL)) STORED,
    UNIQUE KEY outline_sessions_active (active_workflow_id),
    KEY outline_sessions_workflow (workflow_id, version)
)
ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- hash covers prev_hash, chain, seq, ts, event, stream_id, detail and identity_hash, which covers who it was.
CREATE TABLE IF NOT EXISTS audit_log (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    ts DATETIME(6) NOT NULL,
    chain VARCHAR(64) NOT NULL,
    seq BIGINT NOT NULL,
    event VARCHAR(64) NOT NULL,
    stream_id VARCHAR(255),
    user_key VARCHAR(255),
    user_email VARCHAR(320),
    ip VARCHAR(64),
    query_hash VARCHAR(64),
    detail LONGTEXT,
    salt VARCHAR(64),
    identity_hash VARCHAR(64) NOT NULL,
    prev_hash VARCHAR(64) NOT NULL,
    hash VARCHAR(64) NOT NULL,
    UNIQUE KEY audit_log_chain (chain, seq),
    KEY audit_log_ts (ts),
    KEY audit_log_event (event),
    KEY audit_log_user (user_key),
    KEY audit_log_stream (stream_id)
)
ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- head: the last row of a chain. base: the last one that retention has removed.
CREATE TABLE IF NOT EXISTS audit_chains (
    chain VARCHAR(64) NOT NULL PRIMARY KEY,
    node VARCHAR(255),
    started_at DATETIME(6) NOT NULL,
    updated_at DATETIME(6) NOT NULL,
    head_seq BIGINT NOT NULL,
    head_hash VARCHAR(64) NOT NULL,
    base_seq BIGINT NOT NULL DEFAULT 0,
    base_hash VARCHAR(64) NOT NULL DEFAULT '0000000000000000000000000000000000000000000000000000000000000000'
)
ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS chatstream_schema (version INTEGER NOT NULL PRIMARY KEY)
ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
