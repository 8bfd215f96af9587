/* SPDX-License-Identifier: Apache-2.0 */
/* The store against SQLite. What differs between the databases, and what kills them, is in 09-store.t. */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <apr_general.h>
#include <apr_strings.h>

#include "record/store_inner.h"
#include "store_fixture.h"
#include "tap.h"

#define CHAIN "01890000-0000-7000-8000-000000000001"

static apr_pool_t *global;
static char file[256];
static char error[512];

/* A store on a pool of its own. */
static cs_store_t *connect_store(apr_pool_t **pool)
{
    cs_store_t *store = NULL;

    apr_pool_create(pool, global);
    if (cs_store_open(&store, *pool, "sqlite3", file, error, sizeof(error)) != APR_SUCCESS) {
        printf("Bail out! %s\n", error);
        exit(1);
    }
    return store;
}

static const char *ask(cs_store_t *store, const char *text)
{
    static char answer[4096];

    if (cs_sql_ask(store, "test", text, answer, sizeof(answer), error, sizeof(error)) != CS_STORE_OK) {
        return error;
    }
    return answer;
}

static cs_store_e run(cs_store_t *store, const char *text)
{
    return cs_sql_run(store, "test", text, error, sizeof(error));
}

static cs_store_e apply(cs_store_t *store, const cs_fact_t *fact)
{
    return cs_store_apply(store, CHAIN, "node-x", fact, error, sizeof(error));
}

static cs_store_e begin(cs_store_t *store)
{
    return cs_store_begin(store, error, sizeof(error));
}

static cs_store_e commit(cs_store_t *store)
{
    return cs_store_commit(store, error, sizeof(error));
}

/* One fact in a transaction of its own. */
static cs_store_e alone(cs_store_t *store, const cs_fact_t *fact)
{
    cs_store_e got = begin(store);

    if (got == CS_STORE_OK) {
        got = apply(store, fact);
        if (got == CS_STORE_OK) {
            return commit(store);
        }
        cs_store_rollback(store);
    }
    return got;
}

static void empty(cs_store_t *store)
{
    run(store, "DELETE FROM streaming_sessions");
    run(store, "DELETE FROM chat_messages");
    run(store, "DELETE FROM audit_log");
    run(store, "DELETE FROM audit_chains");
}

static void test_migrate(void)
{
    apr_pool_t *pool;
    cs_store_t *store = connect_store(&pool);
    int version = -1;

    is_int(commit(store), CS_STORE_LOST, "nothing to commit");
    is_int(cs_store_version(store, &version, error, sizeof(error)), APR_SUCCESS, "an empty database answers");
    is_int(version, 0, "and has no version");
    is_int(cs_store_migrate(store, error, sizeof(error)), APR_SUCCESS, "migrate");
    is_int(cs_store_migrate(store, error, sizeof(error)), APR_SUCCESS, "migrate again");
    cs_store_version(store, &version, error, sizeof(error));
    is_int(version, 1, "version");
    run(store, "DROP TABLE chat_messages");
    is_int(cs_store_migrate(store, error, sizeof(error)), APR_SUCCESS, "migrate puts back a table that is missing");
    is_str(ask(store, "SELECT count(*) FROM chat_messages"), "0", "it is there");
    is_str(ask(store, "PRAGMA journal_mode"), "wal", "journal mode");
    is_str(ask(store, "PRAGMA synchronous"), "2", "a commit is on the disk");
    run(store, "UPDATE chatstream_schema SET version = 99");
    ok(cs_store_migrate(store, error, sizeof(error)) != APR_SUCCESS, "a newer schema is left alone: %s", error);
    run(store, "UPDATE chatstream_schema SET version = 1");
    apr_pool_destroy(pool);
}

static void test_texts(void)
{
    char number[CS_SQL_NUMBER], when[CS_SQL_TIME];
    cs_sql_e sql;
    unsigned i;
    int same = 1;

    is_str(cs_sql_number(number, INT64_MIN + 1), "-9223372036854775807", "number");
    ok(cs_sql_number(number, CS_NUM_NONE) == NULL, "no number");
    is_str(cs_sql_time(when, STORE_AT), "2026-02-17T10:00:00.123456Z", "time");
    ok(cs_sql_of_driver(&sql, "mysql") == APR_SUCCESS && sql == CS_SQL_MYSQL, "a driver of ours");
    is_int(cs_sql_of_driver(&sql, "oracle"), APR_ENOTIMPL, "and one that is not");
    for (i = 0; i < CS_STMT_COUNT; i++) {
        const char *const *text = cs_statements[i].text;

        same &= cs_statement_parameters(text[0]) == cs_statement_parameters(text[1])
                && cs_statement_parameters(text[0]) == cs_statement_parameters(text[2]);
    }
    ok(same, "every statement has the same parameters in every dialect");
    is_int(cs_statement_parameters("a = %s AND b LIKE '%%s' AND c = %pDt"), 2, "parameters are counted");
}

static void test_stream(cs_store_t *store)
{
    cs_fact_t opening = store_opening("s1", 1), ending = store_ending("s1", 2, "completed");

    empty(store);
    is_int(alone(store, &opening), CS_STORE_OK, "open");
    is_str(ask(store, "SELECT status || '|' || created_at || '|' || coalesce(completed_at, '-') || '|' || node || '|'"
                      " || db_saved FROM streaming_sessions"),
           "active|2026-02-17 10:00:00.123|-|node-1|0", "active");
    is_str(ask(store, "SELECT datetime(created_at) FROM streaming_sessions"), "2026-02-17 10:00:00",
           "datetime() understands it");
    is_int(alone(store, &ending), CS_STORE_OK, "close");
    is_str(ask(store,
               "SELECT status || '|' || created_at || '|' || completed_at || '|' || updated_at || '|'"
               " || first_chunk_latency_ms || '|' || duration_ms || '|' || chunk_count || '|' || bytes_sent || '|'"
               " || reconnects || '|' || coalesce(prompt_tokens, 'null') || '|' || upstream || '|' || db_saved"
               " FROM streaming_sessions"),
           "completed|2026-02-17 10:00:00.123|2026-02-17 10:00:01.623|2026-02-17 10:00:01.623|120|1500|42|4242|1|null|"
           "http://127.0.0.1:8000|1",
           "finished");
    is_str(ask(store,
               "SELECT group_concat(id || '=' || role || '=' || content || '=' || partial, '|') FROM chat_messages"),
           "s1:user=user=What is a \"stream\"? \xe2\x82\xac 100%=0|s1:assistant=assistant=A stream is "
           "\xf0\x9f\x8c\x8a.=0",
           "the conversation");
    is_str(ask(store, "SELECT group_concat(seq || event || ts, '|') FROM audit_log"),
           "1stream_open2026-02-17 10:00:00.123456|2stream_close2026-02-17 10:00:01.623456", "audit rows");
    is_str(ask(store, "SELECT detail FROM audit_log WHERE seq = 1"), "{\"profile\": \"chat\",  \"b\":1,\"a\":2}",
           "detail as it was");
    is_str(ask(store, "SELECT chain || node || head_seq || substr(head_hash, 60) || base_seq || substr(base_hash, 60)"
                      " FROM audit_chains"),
           CHAIN "node-x2000020"
                 "00000",
           "the chain's head");

    ending.number[CS_NUM_CHUNK_COUNT] = 1;
    cs_fact_set(&ending, CS_TXT_STATUS, "error");
    is_int(alone(store, &ending), CS_STORE_OK, "an end after the end");
    is_int(alone(store, &opening), CS_STORE_OK, "the opening again");
    is_str(ask(store, "SELECT count(*) || status || chunk_count FROM streaming_sessions"), "1completed42",
           "changes nothing");
    is_str(ask(store, "SELECT head_seq FROM audit_chains"), "2", "nor does the head go back");
}

/* Whatever was applied before, all at last: every subset of one stream's facts, then the lot. */
static void test_idempotent(cs_store_t *store)
{
    cs_fact_t facts[3] = {store_opening("s1", 1), store_fact(CS_FACT_INCIDENT, "s1"), store_ending("s1", 3, "timeout")};
    int order[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    int i, k, wrong = 0;

    cs_fact_set(&facts[1], CS_TXT_EVENT, "reconnect");
    store_link(&facts[1], 2);
    for (i = 0; i < 6; i++) {
        empty(store);
        for (k = 0; k < 9; k++) {
            wrong += k < 3 + i && alone(store, &facts[order[i][k % 3]]) != CS_STORE_OK;
        }
        wrong += strcmp(ask(store, "SELECT count(*) || status || db_saved FROM streaming_sessions"), "1timeout1") != 0;
        wrong += strcmp(ask(store, "SELECT count(*) FROM chat_messages"), "2") != 0;
        wrong += strcmp(ask(store, "SELECT count(*) || ' ' || sum(seq) FROM audit_log"), "3 6") != 0;
        wrong += strcmp(ask(store, "SELECT head_seq FROM audit_chains"), "3") != 0;
    }
    is_int(wrong, 0, "any order and repetition: one row of each");
}

static void test_saved(cs_store_t *store)
{
    cs_fact_t opening = store_opening("s1", 0), ending = store_ending("s1", 0, "error");

    empty(store);
    cs_fact_set(&ending, CS_TXT_ANSWER, NULL);
    alone(store, &opening);
    alone(store, &ending);
    is_str(ask(store, "SELECT db_saved FROM streaming_sessions"), "1", "message without an answer is saved");
    is_str(ask(store, "SELECT count(*) FROM chat_messages"), "1", "no answer is not a message");

    empty(store);
    cs_fact_set(&ending, CS_TXT_ANSWER, "");
    alone(store, &ending);
    is_str(ask(store, "SELECT db_saved || status || created_at FROM streaming_sessions"),
           "0error2026-02-17 10:00:00.123", "a lost opening: a whole row, begun when it must have, not saved");
    is_str(ask(store, "SELECT user_key || connection_id || profile FROM streaming_sessions"), "user-1connection-1chat",
           "with what the end knows");

    empty(store);
    opening.number[CS_NUM_WANTS] = ending.number[CS_NUM_WANTS] = CS_WANT_SESSIONS;
    cs_fact_set(&ending, CS_TXT_ANSWER, "x");
    alone(store, &opening);
    alone(store, &ending);
    is_str(ask(store, "SELECT db_saved FROM streaming_sessions"), "0", "not saved without transcript");
    is_str(ask(store, "SELECT count(*) FROM chat_messages"), "0", "no messages either");

    empty(store);
    opening.number[CS_NUM_WANTS] = ending.number[CS_NUM_WANTS] = CS_WANT_TRANSCRIPT;
    ending.number[CS_NUM_PARTIAL] = 1;
    alone(store, &opening);
    alone(store, &ending);
    is_str(ask(store, "SELECT count(*) FROM streaming_sessions"), "0", "transcript without sessions");
    is_str(ask(store, "SELECT group_concat(role || partial) FROM chat_messages ORDER BY id"), "user0,assistant1",
           "a partial answer is marked");

    empty(store);
    opening = store_opening("s2", 0);
    cs_fact_set(&opening, CS_TXT_USER_EMAIL, NULL);
    cs_fact_set(&opening, CS_TXT_UPSTREAM, "first");
    alone(store, &opening);
    ending = store_ending("s2", 0, "completed");
    cs_fact_set(&ending, CS_TXT_UPSTREAM, NULL);
    alone(store, &ending);
    is_str(ask(store, "SELECT upstream || (user_email IS NULL) || (error_code IS NULL) FROM streaming_sessions"),
           "first11", "absent is NULL; the upstream stays when the end has none");
}

static void test_large(cs_store_t *store)
{
    size_t len = 8 * 1024 * 1024;
    char *answer = malloc(len);
    cs_fact_t ending = store_ending("s1", 0, "completed");

    empty(store);
    memset(answer, 'a', len);
    ending.text[CS_TXT_ANSWER] = (cs_text_t){answer, len};
    is_int(alone(store, &ending), CS_STORE_OK, "an answer of 8 MiB, which has no NUL at its end");
    is_str(ask(store, "SELECT length(content) FROM chat_messages"), "8388608", "is all there");
    free(answer);
}

static void test_failures(cs_store_t *store)
{
    cs_fact_t good = store_opening("good", 1), bad = store_ending("bad", 2, "completed");

    empty(store);
    run(store, "CREATE TRIGGER picky BEFORE INSERT ON streaming_sessions WHEN NEW.id = 'bad'"
               " BEGIN SELECT RAISE(ABORT, 'not bad'); END");
    is_int(begin(store), CS_STORE_OK, "a batch");
    is_int(apply(store, &good), CS_STORE_OK, "with a good fact");
    is_int(apply(store, &bad), CS_STORE_REFUSED, "and one the schema will not take: %s", error);
    is_int(apply(store, &good), CS_STORE_REFUSED, "spoils the batch");
    is_int(commit(store), CS_STORE_REFUSED, "which is not committed");
    is_str(ask(store, "SELECT count(*) FROM streaming_sessions"), "0", "nothing of it is there");
    is_int(alone(store, &bad), CS_STORE_REFUSED, "refused alone too");
    is_int(alone(store, &good), CS_STORE_OK, "the good one alone is taken");
    run(store, "DROP TRIGGER picky");

    run(store, "CREATE UNIQUE INDEX one_user ON streaming_sessions (user_key)");
    is_int(alone(store, &bad), CS_STORE_REFUSED, "a site's own key is not passed over: %s", error);
    ok(strstr(error, "user-1") == NULL, "and the value is not told");
    run(store, "DROP INDEX one_user");
    is_int(alone(store, &bad), CS_STORE_OK, "taken when the key is gone");

    run(store, "ALTER TABLE audit_log RENAME TO mislaid");
    is_int(alone(store, &bad), CS_STORE_LOST, "a table that is not there is no fault of the fact: %s", error);
    run(store, "ALTER TABLE mislaid RENAME TO audit_log");
    is_int(alone(store, &bad), CS_STORE_OK, "it waits for it");
    is_str(ask(store, "SELECT count(*) FROM audit_log"), "2", "and is there once");

    is_int(apply(store, &good), CS_STORE_LOST, "no transaction, no apply");
    is_int(commit(store), CS_STORE_LOST, "nor commit");
    cs_store_rollback(store);

    run(store, "CREATE TABLE elsewhere (x)");
    is_int(alone(store, &good), CS_STORE_OK, "prepared statements survive a change of the schema");
}

/* As mod_dbd keeps a connection: its statements outlive the stores, and the site's own go first. */
static void test_overrides(cs_store_t *store)
{
    apr_pool_t *connection, *pool;
    apr_hash_t *prepared;
    apr_dbd_prepared_t *statement = NULL;
    cs_store_t *wrapped = NULL;
    cs_fact_t fact = store_opening("o1", 1);
    unsigned i, kept = 0;

    empty(store);
    run(store, "CREATE TABLE site (id PRIMARY KEY, created_at, updated_at, a, b, c, d, e, f, g, h)");
    apr_pool_create(&connection, global);
    prepared = apr_hash_make(connection);
    apr_dbd_prepare(store->driver, connection, store->handle,
                    "INSERT INTO site VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    "chatstream_session_open", &statement);
    apr_hash_set(prepared, "chatstream_session_open", APR_HASH_KEY_STRING, statement);
    for (i = 0; i < 3; i++) {
        apr_pool_create(&pool, global);
        is_int(cs_store_wrap(&wrapped, pool, store->driver, store->handle, prepared, error, sizeof(error)), APR_SUCCESS,
               "wrap");
        is_int(alone(wrapped, &fact), CS_STORE_OK, "apply: %s", error);
        apr_pool_destroy(pool);
        kept = i == 0 ? apr_hash_count(prepared) : kept;
    }
    is_str(ask(store, "SELECT count(*) || created_at || h FROM site"), "12026-02-17T10:00:00.123456Znode-1",
           "the site's statement was used");
    is_str(ask(store, "SELECT count(*) FROM streaming_sessions"), "0", "ours was not");
    is_str(ask(store, "SELECT count(*) FROM audit_log"), "1", "the others are");
    is_int(apr_hash_count(prepared), kept, "and stay with the connection");
    apr_pool_destroy(connection);
}

/* The lock held by another connection: LOST, after a wait; then taken. */
static void test_busy(cs_store_t *store)
{
    apr_pool_t *pool;
    cs_store_t *other = connect_store(&pool);
    cs_fact_t fact = store_opening("busy", 0);
    apr_time_t start = apr_time_now();

    begin(other);
    is_int(alone(store, &fact), CS_STORE_LOST, "locked by another: %s", error);
    ok(apr_time_now() - start < apr_time_from_sec(15), "not for ever");
    cs_store_rollback(other);
    is_int(alone(store, &fact), CS_STORE_OK, "then it is free");
    apr_pool_destroy(pool);
}

static int writer(int number)
{
    apr_pool_t *pool;
    cs_store_t *store = connect_store(&pool);
    int batch, i, wrong = cs_store_migrate(store, error, sizeof(error)) != APR_SUCCESS;
    char id[64], chain[64];

    snprintf(chain, sizeof(chain), "chain-%d", number);
    for (batch = 0; batch < 10; batch++) {
        wrong += begin(store) != CS_STORE_OK;
        for (i = 0; i < 20; i++) {
            cs_fact_t fact;

            snprintf(id, sizeof(id), "p%d-%d-%d", number, batch, i);
            fact = store_opening(id, (uint64_t)(batch * 20 + i + 1));
            wrong += cs_store_apply(store, chain, "node", &fact, error, sizeof(error)) != CS_STORE_OK;
        }
        wrong += commit(store) != CS_STORE_OK;
    }
    if (wrong) {
        printf("# %s\n", error);
    }
    apr_pool_destroy(pool);
    return wrong;
}

static void test_processes(void)
{
    apr_pool_t *pool;
    cs_store_t *store;
    int i, status, wrong = 0;

    snprintf(file + strlen(file), 8, ".many");
    fflush(stdout);
    for (i = 0; i < 4; i++) {
        if (fork() == 0) {
            status = writer(i);
            fflush(stdout);
            _exit(status != 0);
        }
    }
    for (i = 0; i < 4; i++) {
        wrong += wait(&status) < 0 || status != 0;
    }
    is_int(wrong, 0, "four processes create and fill one file at once");
    store = connect_store(&pool);
    is_str(ask(store, "SELECT count(*) FROM streaming_sessions"), "800", "all rows");
    is_str(ask(store, "SELECT count(*) || ' ' || min(head_seq) FROM audit_chains"), "4 200", "all heads");
    apr_pool_destroy(pool);
}

int main(void)
{
    apr_pool_t *pool;
    cs_store_t *store;
    char dir[] = "/tmp/test_store.XXXXXX", command[128];

    apr_initialize();
    apr_pool_create(&global, NULL);
    apr_dbd_init(global);
    if (mkdtemp(dir) == NULL) {
        return 1;
    }
    snprintf(file, sizeof(file), "%s/chat.db", dir);

    test_texts();
    test_migrate();
    store = connect_store(&pool);
    test_stream(store);
    test_idempotent(store);
    test_saved(store);
    test_large(store);
    test_failures(store);
    test_overrides(store);
    test_busy(store);
    apr_pool_destroy(pool);
    test_processes();

    snprintf(command, sizeof(command), "rm -r %s", dir);
    ok(system(command) == 0, "cleaned up");
    apr_terminate();
    return done_testing();
}
